"""What one stack saves, with a training that says what it was asked for."""

from types import SimpleNamespace

import pytest
import torch

from companion.jobs import Run
from companion.teachers import stacking_cost
from companion.teachers.stacking_cost import StackingCost


@pytest.fixture
def trained(monkeypatch):
    """Record each training; what it returns differs by 3 and 0.5 between a stack and one alone."""
    calls = []

    def train(recipes, data, folder, **how):
        calls.append((recipes, data, folder, how))
        alone, dtype = len(recipes) == 1, how["dtype"]
        gap = {torch.float32: 3.0, torch.float64: 0.5}[dtype] if alone else 0.0
        weights = [torch.zeros(2, dtype=dtype), torch.tensor([1.0, -gap], dtype=dtype)]
        model = SimpleNamespace(parameters=lambda: iter(weights))
        seconds = 2.0 if alone else 7.0 if dtype == torch.float32 else 100.0
        return [model] * len(recipes), [{"seconds": seconds}] * len(recipes)

    monkeypatch.setattr(stacking_cost, "train", train)
    return calls


def test_every_training_is_on_the_runs_device_and_of_its_own_precision(trained, tmp_path):
    found = StackingCost().do(Run("smoke", tmp_path, "another"))
    assert [len(recipes) for recipes, *_ in trained] == [5, 1, 5, 1]
    assert [how["device"] for *_, how in trained] == ["another"] * 4
    assert [how["dtype"] for *_, how in trained] == [torch.float32] * 2 + [torch.float64] * 2
    assert len({str(folder) for _, _, folder, _ in trained}) == 2, "a folder of its own for each precision"
    assert found["difference_float32"] == pytest.approx(3.0) and found["difference_float64"] == 0.5
    assert found["ratio"] == 3.5, "of single precision"


def test_five_seeds_train_for_as_long_as_the_scale_says_on_the_same_pictures(trained, tmp_path):
    run = Run("smoke", tmp_path)
    found = StackingCost("image-patch7").do(run)
    recipes, data, *_ = trained[0]
    assert [recipe.seed for recipe in recipes] == [0, 1, 2, 3, 4]
    assert {(one.family, one.steps, one.checkpoint_every) for one in recipes} == {
        ("image-patch7", stacking_cost.STEPS["smoke"], stacking_cost.STEPS["smoke"])
    }
    assert all(torch.equal(data.inputs, other.inputs) for _, other, *_ in trained)
    assert data.inputs.shape == (4 * recipes[0].batch, 28, 28) and data.inputs.dtype == torch.uint8
    assert sorted(data.labels.unique().tolist()) == list(range(10))
    identity = StackingCost("image-patch7").identity(run)
    assert identity.items() <= found.items() and found["jobs"] == 5 and found["family"] == "image-patch7"
    assert {"device", "versions"} <= found.keys()
