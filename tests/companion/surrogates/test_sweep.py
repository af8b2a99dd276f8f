"""The sweep's own jobs: what stands beside equations, what is left out, and what is chosen by name."""

from types import SimpleNamespace

import pytest
import torch

from companion.jobs import Run
from companion.paths import DataError, sha256
from companion.surrogates import sweep
from companion.surrogates.sweep import NullsBeside
from companion.teachers.teacher import DINOV2, HELD, MINILM


@pytest.fixture
def run(tmp_path):
    return Run("smoke", tmp_path, "meta")


@pytest.fixture
def asked(monkeypatch):
    """Record what nulls are made of, for teachers that are but names."""
    calls = []

    def teacher(name, run):
        twin = SimpleNamespace(of=lambda *given: calls.append(("twin", *given)) or f"twin of {name}")
        nearest = SimpleNamespace(to=lambda device: ("nearest", device))
        return SimpleNamespace(untrained=lambda: twin, nearest=lambda *given: calls.append(given) or nearest)

    def flows(name, run):
        assert name is not None
        return f"held of {name}", f"calibration of {name}"

    monkeypatch.setattr(sweep, "cached_teacher", teacher)
    monkeypatch.setattr(sweep, "evaluation_flows", flows)
    monkeypatch.setattr(sweep, "nulls_of", lambda *given: calls.append(given) or {})
    return calls


@pytest.mark.parametrize(
    ("name", "other"), [("image-patch4-seed0", "image-patch4-seed1"), ("image-patch4-seed4", "image-patch4-seed0")]
)
def test_the_next_seeds_teacher_stands_beside_where_its_weights_are(run, asked, name, other):
    NullsBeside(name).do(run)
    held = HELD["smoke"]
    assert asked[0] == ("twin", "heldout", held, "meta") and asked[1] == ("heldout", held, held)
    given = asked[-1]
    assert given[:3] == (f"held of {name}", f"calibration of {name}", f"twin of {name}")
    assert given[3] == (f"calibration of {other}", f"held of {other}"), "calibration first: heads are matched on it"
    assert given[4] == ("nearest", "meta")


@pytest.mark.parametrize("name", [MINILM, DINOV2])
def test_pretrained_models_have_no_other_seed(run, asked, name):
    NullsBeside(name).do(run)
    assert asked[-1][3] == () and NullsBeside(name).identity(run)["teachers"] == {name: None}


def test_one_without_weights_is_left_out(run, asked, monkeypatch):
    def missing(name, folder):
        raise DataError("not here")

    monkeypatch.setattr(sweep, "weights_of", missing)
    NullsBeside("image-patch4-seed0").do(run)
    assert asked[-1][3] == ()
    assert NullsBeside("image-patch4-seed0").identity(run)["teachers"] == {
        "image-patch4-seed0": None,
        "image-patch4-seed1": None,
    }


def test_nulls_are_of_the_weights_that_they_were_made_with(run):
    path = run.folder / "image-patch4-seed1.safetensors"
    before = NullsBeside("image-patch4-seed0").identity(run)
    path.write_bytes(b"others")
    after = NullsBeside("image-patch4-seed0").identity(run)
    assert after["teachers"]["image-patch4-seed1"] == sha256(path) != before["teachers"]["image-patch4-seed1"]
    assert after["teachers"]["image-patch4-seed0"] == before["teachers"]["image-patch4-seed0"] is not None
    assert (after["scale"], after["held"], after["nulls"]) == ("smoke", HELD["smoke"], sweep.NULL_NAMES)
    assert NullsBeside("image-patch4-seed0").name == "nulls-image-patch4-seed0"


def test_what_fits_is_chosen_and_every_teachers_nulls_once(run):
    only = "rung-image-patch4-laws-*,power-*"
    found = [job.name for job in sweep.sweep_jobs(run, only)]
    assert [name for name in found if name.startswith("nulls")] == ["nulls-image-patch4-seed0"]
    assert all(name.startswith(("rung-image-patch4-laws-", "power-", "nulls-")) for name in found)
    assert sum(name.startswith("power-") for name in found) == len(sweep.KINDS)
    every = [job.name for job in sweep.sweep_jobs(run)]
    assert set(sweep.names("smoke")) == {name for name in every if not name.startswith("nulls")}
    assert len(every) == len(set(every)) and every[-1].startswith("nulls-") and every[0].startswith("rung-")


def test_what_is_committed_is_left_out_only_where_that_is_asked(run, monkeypatch):
    name = "rung-image-patch4-laws-k1-b1-seed0"
    monkeypatch.setattr(sweep, "committed", lambda scale: {name} if scale == "smoke" else set())
    assert name in [job.name for job in sweep.sweep_jobs(run, name)]
    assert sweep.sweep_jobs(run, name, missing=True) == []


def test_nulls_cost_as_much_as_a_good_equation_at_the_smallest_scale(run):
    nulls = NullsBeside("image-patch4-seed0").cost(run)
    equations = [job.cost(run) for job in sweep.sweep_jobs(run, "rung-image-patch4-full-k1-seed0")[:1]]
    assert nulls > equations[0] > 0 and torch.isfinite(torch.tensor(nulls))
