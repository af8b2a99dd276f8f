import dataclasses
import math

import numpy as np
import pytest
import torch

from pdelens.information import methods, neural
from pdelens.information.estimate import mutual_information
from pdelens.information.gaussian import gaussian
from pdelens.information.ksg import ksg


def correlated(samples, dims=(1, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, dims[0], generator=generator, dtype=torch.float64)
    return x, 0.8 * x[:, :1] + torch.randn(samples, dims[1], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("samples", "dims", "bins"), [(500, (1, 1), 10), (120, (1, 1), 5), (320, (2, 1), 4), (20, (2, 3), 2)]
)
def test_binned_has_cells_of_equal_counts_with_about_five_samples_each(samples, dims, bins):
    x, y = correlated(samples, dims)

    def entropy(*parts):
        rows = torch.cat(parts, 1).numpy()
        cells = rows.argsort(0).argsort(0) * bins // samples
        counts = np.unique(cells, axis=0, return_counts=True)[1] / samples
        return -(counts * np.log(counts)).sum() + (len(counts) - 1) / (2 * samples)

    wanted = entropy(x) + entropy(y) - entropy(x, y)
    assert methods.estimator("binned")(x, y) == pytest.approx(wanted, abs=1e-9)


def test_neighbours_and_units_of_ksg():
    x, y = correlated(200)
    for method, variant in (("ksg", 1), ("ksg2", 2)):
        for k in (3, 10):
            wanted = ksg(x / x.std(), y / y.std(), neighbours=k, variant=variant)
            assert methods.estimator(method, neighbours=k)(40 * x + 3, y) == pytest.approx(wanted, abs=1e-9)
        usual = methods.estimator(method, neighbours=10)(x, y)
        assert methods.estimator(method)(x, y) == usual != methods.estimator(method, neighbours=9)(x, y)


def test_settings_reach_the_critics(monkeypatch):
    taken = []
    monkeypatch.setattr(neural, "_read", lambda *given: taken.append(given[4:]) or 0.0)
    given = {"batch": 7, "critic": "joint", "seeds": 2, "steps": 3, "seed": 5}
    x, y = correlated(60)
    for bound in (neural.info_nce, neural.nwj, neural.mine):
        bound(x, y, **given)
        bound(x, y)
    assert taken[::2] == [(7, "joint", 2, 3, 5)] * 3
    assert taken[1] == taken[3] == taken[5], "alike, unless told otherwise"
    batch, _, seeds, steps, _ = taken[1]
    assert methods.METHODS["info_nce"].ceiling(10**6, 10) == pytest.approx(math.log(batch))
    assert methods.METHODS["nwj"].ceiling(2000, 10) == methods.METHODS["mine"].ceiling(2000, 10) == math.log(400)
    for method in ("info_nce", "nwj", "mine"):
        methods.chosen(method).make(10, 4)(x, y)
        quick = methods.chosen(method).quick
        assert quick is not None
        quick(10, 6)(x, y)
        (_, _, *whole), (_, _, *short) = taken[-2:]
        assert whole == [seeds, steps, 4] and short[0] == 1 < seeds and short[1] < steps and short[2] == 6


def test_a_probe_takes_labels_for_labels_and_numbers_for_numbers(monkeypatch):
    taken = []
    monkeypatch.setattr(neural, "probe_bound", lambda x, labels, **given: taken.append(("labels", labels, given)))
    monkeypatch.setattr(neural, "gaussian_probe_bound", lambda x, y, **given: taken.append(("numbers", y, given)))
    x, y = correlated(60)
    whole = (torch.arange(60) % 3 * 5.0)[:, None]
    for target, told in ((y, None), (whole, None), (whole, False), (whole, True)):
        method = methods.chosen("probe", told)
        method.make(10, 2)(x, target)
        assert method.quick is not None
        method.quick(10, 3)(x, target)
    kinds = [kind for kind, _, _ in taken]
    assert kinds == ["numbers"] * 2 + ["labels"] * 2 + ["numbers"] * 2 + ["labels"] * 2
    assert taken[2][1].tolist() == (torch.arange(60) % 3).tolist()
    assert taken[0][2] == {"seed": 2} and taken[1][2]["seed"] == 3 and taken[1][2]["steps"] < 1000
    with pytest.raises(ValueError, match="y has 2 columns"):
        methods.chosen("probe").make(10, 0)(x, torch.cat([y, y], 1))


def test_names_lead_to_methods_and_ceilings():
    x, y = correlated(100)
    assert methods.estimator("gaussian")(x, y) == gaussian(x, y)
    assert methods.chosen("binned").ceiling(100, 10) == math.log(100)
    assert methods.chosen("gaussian").ceiling(100, 10) == math.inf
    assert (
        methods.chosen("auto").ceiling(2000, 10)
        == methods.chosen("ksg").ceiling(2000, 10)
        == pytest.approx(5.35, abs=0.01)
    )
    with pytest.raises(ValueError, match="method='kgs' was given: 'auto' or one of ksg, ksg2"):
        methods.chosen("kgs")


@pytest.mark.parametrize(("name", "most"), [("ksg", 500), ("kernel_density", 500), ("renyi", 250), ("sliced", 250)])
def test_the_null_of_a_slow_estimator_is_made_of_fewer_samples(name, most, monkeypatch):
    x, y = correlated(600)
    asked = []
    quick = dataclasses.replace(
        methods.METHODS[name], make=lambda *_: lambda x, y: asked.append(len(x)) or 0.0, quick=None, repeats=0
    )
    monkeypatch.setitem(methods.METHODS, name, quick)
    found = mutual_information(x, y, method=name, shuffles=3)
    assert found.null_samples == most and asked.count(most) >= 3 and max(asked) == 600
    few = mutual_information(x[:100], y[:100], method=name, shuffles=3)
    assert few.null_samples == 100
