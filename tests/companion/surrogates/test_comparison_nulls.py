import numpy as np
import pytest

from companion.surrogates import comparison_nulls as beside
from companion.surrogates import results
from companion.teachers import teacher
from pdelens.agreement import measures

HEADS = {0: [[0.9, 0.7], [1.0, 0.97]], 1: [[0.8, 0.8], [0.5, 0.9]]}
UNIFORM = {0: [[0.5, 0.5], [0.6, 0.98]], 1: [[0.5, 0.5], [0.6, 0.6]]}


@pytest.fixture
def known(monkeypatch):
    """Two seeds of one equation whose numbers can be followed by hand; one has a look-up table on record."""
    rungs = {
        f"rung-image-full-seed{seed}": {
            "made": {"subject": f"image-seed{seed}"},
            "judged": {"1": {"cosine": [0.9, 0.8]}, "converged": {"cosine": HEADS[seed]}, "16": {"diverged": "at 3"}},
        }
        for seed in HEADS
    }
    nulls = {
        f"image-seed{seed}": {"attention": {"uniform": UNIFORM[seed], "mean map": [[0.4, 0.4]] * 2}} for seed in HEADS
    }
    nulls["image-seed0"]["attention"][beside.LOOK_UP] = [[0.8, 0.2], [0.2, 0.2]]
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": rungs, "nulls": nulls})
    clear = beside.looked_up.cache_clear
    clear()
    yield
    clear()


def test_the_best_null_is_the_best_of_each_head_with_the_look_up_table_where_it_is_known(known):
    assert beside.best("image-seed0").tolist() == [[0.8, 0.5], [0.6, 0.98]]
    assert beside.looked_up("image-seed1") is None, "no weights of that name are committed"
    assert beside.best("image-seed1").tolist() == UNIFORM[1]
    assert list(beside.by_seed("image")) == [0, 1]
    assert beside.best_mean("image").seeds == pytest.approx((0.65, 0.5))
    assert beside.look_up_mean("image").seeds == pytest.approx((0.2,))
    assert beside.look_up_mean("image", "worst head").seeds == pytest.approx((0.2,))


def test_a_look_up_table_that_is_measured_counts_as_one_on_record(known, monkeypatch):
    monkeypatch.setattr(beside, "looked_up", lambda teacher: np.array([[0.9, 0.1], [0.1, 0.7]]))
    assert beside.best("image-seed1").tolist() == [[0.9, 0.5], [0.6, 0.7]]


def test_a_head_as_good_as_its_null_is_not_above_it(known, monkeypatch):
    monkeypatch.setattr(beside, "by_seed", lambda teacher: {seed: np.array(HEADS[seed]) - 1e-9 for seed in HEADS})
    assert beside.not_above("image", "full") == []
    monkeypatch.setattr(beside, "by_seed", lambda teacher: {seed: np.array(HEADS[seed]) for seed in HEADS})
    assert len(beside.not_above("image", "full")) == 8


def test_skill_is_pooled_over_the_heads_of_a_layer(known):
    found = beside.pooled("image", "full")
    # What is missing: .1 + .3 of .2 + .5; 0 + .03 of .4 + .02. And .4 of 1; .6 of .8.
    assert found[0] == pytest.approx([1 - 0.4 / 0.7, 1 - 0.03 / 0.42])
    assert found[1] == pytest.approx([0.6, 0.25])
    assert beside.pooled_mean("image", "full").seeds == pytest.approx((1 - 0.4 / 0.7, 0.25))


def test_what_is_not_kept_by_head_or_diverged_is_left_out(known):
    assert beside.cosines("image", "full", "1") == {} and beside.cosines("image", "full", "16") == {}
    assert str(beside.pooled_mean("image", "full", "16")) == "–"


def test_heads_without_a_test_and_those_below_their_null_are_named(known):
    assert beside.untestable("image") == [beside.Head(0, 2, 2)]
    assert beside.not_above("image", "full") == [beside.Head(0, 2, 2), beside.Head(1, 2, 1)]
    assert str(beside.Head(1, 2, 1)) == "2.1"


def test_the_look_up_table_is_the_mean_map_of_the_five_nearest_calibration_inputs():
    found, count = teacher.teacher_named("image-patch4-seed0"), 12
    heldout, calibration = (found.of(split, count).attention for split in ("heldout", "calibration"))
    pictures, others = (found.inputs(split, count)[0].flatten(1).double() for split in ("heldout", "calibration"))
    scores = []
    for example, picture in enumerate(pictures):
        nearest = (others - picture).square().sum(1).argsort()[:5]
        maps = [layer[nearest].mean(0, keepdim=True) for layer in calibration]
        own = [layer[example : example + 1] for layer in heldout]
        scores.append([measures.cosine(a, b)[0].numpy() for a, b in zip(maps, own, strict=True)])
    assert np.allclose(beside.look_up(found, count), np.mean(scores, 0), atol=1e-5)
