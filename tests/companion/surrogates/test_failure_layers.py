from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from companion.surrogates import errors, failure_layers, results
from pdelens import Flow

TOKENS, WIDTH = 5, 3


def made(examples, seed, bend=0.3, layers=2, short=True):
    """Return a Flow of bent layers, whose last example is padded after three tokens."""
    generator = torch.Generator().manual_seed(3)
    matrices = torch.eye(WIDTH) + 0.4 * torch.randn(layers, WIDTH, WIDTH, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(examples, TOKENS, WIDTH, generator=generator) * torch.tensor([3.0, 1.0, 0.2])]
    for matrix in matrices:
        states.append(states[-1] @ matrix + bend * states[-1].square() + 0.5)
    mask = torch.ones(examples, TOKENS, dtype=torch.bool)
    mask[-1, 3:] = not short
    logits = torch.randn(examples, 2, TOKENS, TOKENS, generator=generator).masked_fill(~mask[:, None, None], -1e9)
    return Flow(states=states, attention=[logits.softmax(-1)] * layers, mask=mask)


def rows(flow, depth):
    return flow.states[depth][flow.mask].double().numpy()


def centres(calibration, flow, depth):
    """Return the calibration split's mean at each real token of a flow, by a loop."""
    u = calibration.states[depth].double().numpy()
    means = [u[calibration.mask[:, token].numpy(), token].mean(0) for token in range(TOKENS)]
    return np.array([means[token] for _, token in flow.mask.nonzero().tolist()])


def with_one(values):
    return np.concatenate([values, np.ones((len(values), 1))], 1)


def non_affinity(flow, calibration, depth, step=False, features=None):
    """Return 1 - R2, mean over channels, of the best affine map: least squares by numpy."""
    known, given = (one if features is None else features(one) for one in (calibration, flow))
    known, given = (rows(known, depth - 1), rows(given, depth - 1)) if features is None else (known, given)
    wanted, truth = rows(calibration, depth), rows(flow, depth)
    if step:
        wanted, truth = wanted - rows(calibration, depth - 1), truth - rows(flow, depth - 1)
        means = centres(calibration, flow, depth) - centres(calibration, flow, depth - 1)
    else:
        means = centres(calibration, flow, depth)
    guess = with_one(given) @ np.linalg.lstsq(with_one(known), wanted, rcond=None)[0]
    return np.mean(((guess - truth) ** 2).sum(0) / ((truth - means) ** 2).sum(0))


class Twin:
    def __init__(self, bend):
        self.bend = bend

    def of(self, split, count):
        return made(count, {"heldout": 11, "calibration": 12}[split], self.bend)


def test_what_no_affine_map_gives_is_least_squares_remainder():
    reference, calibration = made(60, 1), made(80, 2)
    teacher = SimpleNamespace(untrained=lambda: Twin(0.1))
    found = failure_layers.non_affinities(teacher, reference, calibration)
    assert set(found) == {
        f"{part}{kind}" for part in ("state", "step") for kind in ("", "-with-averages", "-untrained")
    }
    for step, part in ((False, "state"), (True, "step")):
        wanted = [non_affinity(reference, calibration, depth, step) for depth in (1, 2)]
        assert found[part] == pytest.approx(wanted, rel=1e-4)
        twin = Twin(0.1).of("heldout", 60), Twin(0.1).of("calibration", 80)
        wanted = [non_affinity(*twin, depth, step) for depth in (1, 2)]
        assert found[f"{part}-untrained"] == pytest.approx(wanted, rel=1e-4)


def test_averages_are_by_each_heads_mean_map():
    reference, calibration = made(60, 1, short=False), made(80, 2, short=False)
    means = calibration.attention[0].double().mean(0)

    def features(flow):
        u = flow.states[0].double()
        return torch.cat([u, *(one @ u for one in means)], -1).flatten(0, 1).numpy()

    teacher = SimpleNamespace(untrained=lambda: Twin(0.1))
    found = failure_layers.non_affinities(teacher, reference, calibration)["state-with-averages"]
    assert found[0] == pytest.approx(non_affinity(reference, calibration, 1, features=features), rel=1e-3)


def test_affine_maps_miss_the_rest_alone_and_nothing_added_misses_the_step():
    reference, calibration = made(400, 1), made(400, 2)
    found = failure_layers.null_splits(reference, calibration)
    assert list(found) == list(failure_layers.STATE_NULLS)
    affine, rest = found["affine, one step"].missed()
    assert np.abs(affine).max() < 0.02 and np.abs(rest - 1).max() < 0.1
    step = rows(reference, 1) - rows(reference, 0)
    spread = (rows(reference, 1) - centres(calibration, reference, 1)) ** 2
    wanted = np.mean((step**2).mean(0) / spread.mean(0))
    assert found["identity, one step"].unmet[0] == pytest.approx(wanted, rel=1e-4)


def test_parts_are_summed_over_layers_before_they_are_divided():
    found = errors.LinearSplit(np.array([0.2, 0.4]), np.array([0.5, 0.8]), np.array([0.25, 0.5]))
    # Missed: .05 + .2 of .5 + .8, and .15 + .2 of .5 + .2.
    assert failure_layers.over_layers(found) == pytest.approx({"affine": 0.25 / 1.3, "rest": 0.35 / 0.7})


def folded(x, y, fold):
    """Return the share of y's squares that least squares predict on the fold left out, by numpy, fold by fold."""
    left = 0.0
    for number in sorted(set(fold)):
        out = fold == number
        left += ((y[out] - x[out] @ np.linalg.lstsq(x[~out], y[~out], rcond=None)[0]) ** 2).sum()
    return max(0.0, 1 - left / (y**2).sum())


def test_a_pooled_split_is_crossvalidated_least_squares():
    reference, calibration = made(40, 1), made(60, 2)
    wrong = made(40, 1, bend=0.2)
    found = failure_layers.pooled_split(wrong, reference, calibration, folds=4)
    fold = np.array([example % 4 for example, _ in reference.mask.nonzero().tolist()])
    for depth in (1, 2):
        x = with_one(rows(reference, depth - 1) - centres(calibration, reference, depth - 1))
        truth = rows(reference, depth) - centres(calibration, reference, depth)
        error = rows(wrong, depth) - rows(reference, depth)
        assert found.unmet[depth - 1] == pytest.approx((error**2).sum() / (truth**2).sum(), rel=1e-4)
        assert found.linear[depth - 1] == pytest.approx(folded(x, truth, fold), rel=1e-4)
        assert found.error[depth - 1] == pytest.approx(folded(x, error, fold), rel=1e-3, abs=1e-4)


def test_pooled_a_quiet_channel_counts_for_little():
    reference, calibration = made(100, 1), made(100, 2)
    states = tuple(state.clone() for state in reference.states)
    loud = reference.states[1][reference.mask].var(0)
    assert loud[2] < 0.3 * loud[0]
    states[1][..., 2] = 0
    flow = replace(reference, states=states)
    pooled, alike = (
        split(flow, reference, calibration) for split in (failure_layers.pooled_split, errors.linear_split)
    )
    assert 0 < pooled.unmet[0] < 0.5 * alike.unmet[0] and pooled.unmet[1] == 0
    even = replace(reference, states=tuple(0.5 * state for state in reference.states))
    assert failure_layers.pooled_split(reference, reference, calibration).unmet.tolist() == [0, 0]
    assert failure_layers.pooled_split(even, reference, calibration).linear == pytest.approx(pooled.linear)


def test_missed_is_the_worst_depths_share_of_the_pooled_variance():
    reference, calibration = made(50, 1), made(70, 2)
    states = [reference.states[0] + 9, reference.states[1] + 0.1, reference.states[2] + 0.4]
    shares = []
    for depth in (1, 2):
        spread = rows(reference, depth) - centres(calibration, reference, depth)
        shares.append(
            ((states[depth] - reference.states[depth])[reference.mask].double().numpy() ** 2).sum() / (spread**2).sum()
        )
    found = failure_layers.missed(states, reference, calibration)
    assert found == pytest.approx(max(shares), rel=1e-4) and min(shares) < 0.9 * max(shares), "embeddings don't count"


def test_nulls_that_see_the_input_alone():
    straight = made(50, 1, bend=0.0, short=False), made(70, 2, bend=0.0, short=False)
    near = torch.arange(70)[:50, None].expand(50, 5)
    assert failure_layers.null_missed(*straight, near)["affine, rolled out"] < 1e-6
    reference = made(50, 1, short=False)
    own = torch.arange(50)[:, None]
    assert failure_layers.null_missed(reference, reference, own)["nearest neighbours"] < 1e-9
    found = failure_layers.null_missed(reference, made(70, 2, short=False), near)
    assert found["nearest neighbours"] > 1 and 0 < found["affine, rolled out"] < 1


@pytest.fixture
def known(monkeypatch):
    """Two seeds of one equation, one of which diverged, and its nulls."""
    states = {"affine, one step": [0.8, 0.9], "affine, rolled out": [0.8, 0.5], "mean state": [0.0, 0.0]}
    judged = {"cosine": [[0.9, 0.7], [0.5, 0.6]], "r2": [0.7, 0.6], "classes": 0.9}
    rungs = {
        "rung-image-full-k1-seed0": {
            "made": {"subject": "image-seed0"},
            "judged": {"converged": judged, "1": {"cosine": [[0.3, 0.3]] * 2, "r2": [0.2, 0.1], "classes": 0.4}},
            "local": {"unmet": [0.2, 0.1], "linear": [0.5, 0.5], "error": [0.5, 0.5], "way": "converged"},
        },
        "rung-image-full-k1-seed1": {
            "made": {"subject": "image-seed1"},
            "judged": {"converged": {"diverged": "at 3"}},
            "local": {"unmet": [0.4, 0.3], "linear": [0.5, 0.5], "error": [0.5, 0.5], "way": "converged"},
        },
    }
    nulls = {
        "image-seed0": {
            "states": states,
            "attention": {"mean map": [[0.2, 0.4], [0.5, 0.1]], "uniform": [[0.1] * 2] * 2},
        },
        "image-seed1": {"states": {name: [v / 2 for v in values] for name, values in states.items()}, "attention": {}},
    }
    found = {"rungs": rungs, "nulls": nulls}
    for module in (results, failure_layers):
        monkeypatch.setattr(module, "sweep_records", lambda: found)


def test_losses_are_by_seed_and_layer(known):
    found = failure_layers.losses("image")
    assert found.local.tolist() == [[0.2, 0.1], [0.4, 0.3]]
    assert found.affine == pytest.approx(np.array([[0.2, 0.1], [0.6, 0.55]]))
    assert found.rolled == pytest.approx(np.array([[0.3, 0.4]])), "one diverged"
    assert found.straight == pytest.approx(np.array([[0.2, 0.5], [0.6, 0.75]]))


def test_what_is_read_of_records(known, monkeypatch):
    rungs = results.sweep_records()["rungs"]
    del rungs["rung-image-full-k1-seed1"]
    assert failure_layers.judged("image", "full-k1") == pytest.approx({"unmet": 0.4, "cosine": 0.55, "classes": 0.9})
    assert failure_layers.judged("image", "full-k1", "1")["unmet"] == pytest.approx(0.9)
    found = failure_layers.null_judged("image")
    # Mean of .2 and .1; the worse of .2 and .5; the lower of .3 and .3.
    assert found == pytest.approx({"non-affinity": 0.15, "null": 0.5, "null-cosine": 0.3})
    cosines, missed = failure_layers.by_layer("image", "full-k1")
    assert cosines == pytest.approx([0.8, 0.55]) and missed == pytest.approx([0.3, 0.4])
    cosines, missed = failure_layers.by_layer("image")
    assert cosines == pytest.approx([0.3, 0.3]) and missed == pytest.approx([0.2, 0.5])
