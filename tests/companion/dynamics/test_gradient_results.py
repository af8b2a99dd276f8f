"""What the page reads of the jobs' records on gradients."""

import json

import numpy as np
import pytest

from companion.dynamics import gradient_results as results
from companion.dynamics.gradient_budgets import HALVES
from companion.dynamics.gradients import CLASS, NEAREST, UNTRAINED
from companion.surrogates.candidates import AFFINE, IDENTITY, RELEARNT


def flow(law, seed, mean=0.4):
    cosine = {"three laws": law, "seed 1": seed, "seed 2": seed - 0.1}
    cosine |= {IDENTITY: 0.0, AFFINE: 0.1, NEAREST: 0.3, CLASS: mean, UNTRAINED: 0.0}
    found = {"input": {name: {"cosine": value, "rank": value / 2} for name, value in cosine.items()}}
    return found | {"depths": {"three laws": [law, 1.0]}, "norms": {"seed 1": [2.0, 0.0], "seed 2": [1.0, 0.0]}}


SPECTRA = {
    "spectra": {
        "0": {"models": {"teacher": {"log": [[2.0, 1.0], [4.0, 3.0]], "gap": 0.5, "error": 0.25}}, "chance": 0.01}
    },
    "volume": {"layers": {"teacher": {"log": [0.1, 0.2], "trace": [-0.3, 0.0]}}},
    "normality": {"teacher": {"departure": [0.8, 0.6, 0.4, 0.2]}},
}


@pytest.fixture
def records(monkeypatch):
    rows = {
        "image-patch4-seed1": flow(0.7, 0.5),
        "image-patch4-seed0": flow(0.8, 0.2),
        "image-patch40-seed0": flow(0, 0),
    }
    kinds = {"flow": rows, "spectra": {"image-patch4-seed0": SPECTRA}}
    kinds["adjoints"] = {"image-patch4-seed0": {"adjoint": {"end alone": {"error": 0.5, "path": 9.0}}}}
    flows = {"three laws": {"total": -1.5, "units": [-1.0, -0.5], "terms": {"reaction": -1.2}}}
    kinds["traces"] = {"image-patch4-seed0": {"traces": {"teacher": [9.0, -0.25, 0.5]}, "flows": flows}}
    rest = {HALVES["three laws"]: 0.75, HALVES["one law"]: 0.6, RELEARNT: 0.9}
    kinds["budget"] = {"image-patch4-seed0": {"input": {name: {"cosine": value} for name, value in rest.items()}}}
    row = {"trained": [{"norms": [0.5, 0.0]}], "untrained": [{"norms": [0.1, 0.0]}, {"norms": [0.2, 0.0]}]}
    kinds["placements"] = {"image-patch7": {"no norm": row}}
    monkeypatch.setattr(results, "gradient_records", lambda: kinds)


def test_a_margin_is_over_the_best_of_all_others_in_each_seed(records):
    assert results.by_input("image-patch4", "three laws").seeds == (0.8, 0.7)
    assert results.margin("image-patch4", "three laws").seeds == pytest.approx((0.8 - 0.4, 0.7 - 0.5))
    assert results.skill("image-patch4", "three laws").seeds == pytest.approx((1 - 0.2 / 0.6, 1 - 0.3 / 0.5))
    name, margin = results.best_null("image-patch4")
    assert name == CLASS and margin.seeds == pytest.approx((0.4 - 0.3, 0.4 - 0.5))
    assert results.by_input("image-patch4", results.SEEDS).seeds == pytest.approx((0.15, 0.45))
    assert results.by_input("image-patch4", results.SEEDS, "rank").seeds == pytest.approx((0.075, 0.225))


def test_the_claim_reads_a_margin_and_its_skill(records, monkeypatch):
    written = {}
    monkeypatch.setattr(results, "record_mean", lambda key, mean: written.update({key: mean.mean}))
    monkeypatch.setattr(results, "record", lambda key, value, **how: written.update({key: value}))
    found = results.recorded_for("gradients.c4.three-laws.image", "image-patch4", "three laws")
    assert written["gradients.c4.three-laws.image"] == found.mean == pytest.approx(0.3)
    assert written["gradients.c4.three-laws.image.skill"] == pytest.approx((2 / 3 + 0.4) / 2)
    # From .75 to .8 of seed 0, whose best other has .4; the architecture learnt anew has .9.
    assert written["gradients.c4.three-laws.image.gained"] == pytest.approx(1 - 0.2 / 0.25)
    assert written["gradients.c4.three-laws.image.control"] == pytest.approx(0.9 - 0.4)


def test_curves_are_by_seed(records):
    np.testing.assert_allclose(results.by_depth("image-patch4", "three laws"), [[0.8, 1], [0.7, 1]])
    np.testing.assert_allclose(results.by_depth("image-patch4", results.SEEDS, "norms"), [[1.5, 0]] * 2)
    assert results.by_depth("image-patch4", "nothing").size == 0
    assert results.by_depth("image-patch4", results.SEEDS).size == 0, "they share no coordinates"
    assert results.at_depth("image-patch4", "three laws", 0).seeds == (0.8, 0.7)


def test_spectra_volumes_and_normality(records):
    assert results.spectrum("image-patch4", "teacher", "gap").mean == 0.5
    assert results.spectrum("image-patch4", "chance", "").mean == 0.01
    assert results.spectrum("image-patch4", "nothing", "gap").seeds == ()
    assert results.spectrum_error("image-patch4") == 0.25
    np.testing.assert_allclose(results.singular_values("image-patch4", "teacher"), [np.array([3, 2]) / np.log(10)])
    assert results.volume("image-patch4", "teacher").mean == pytest.approx(0.3)
    assert results.volume("image-patch4", "teacher", "trace").mean == pytest.approx(-0.3)
    assert results.volume("image-patch4", "three laws", "total").mean == -1.5
    assert results.volume("image-patch4", "three laws", "reaction").mean == -1.2
    assert results.volume_by_unit("image-patch4", "teacher").tolist() == [[0.1, 0.2]]
    assert results.volume_by_unit("image-patch4", "three laws").tolist() == [[-1.0, -0.5]]
    assert results.fall_over_depth("image-patch4", "teacher", "departure").mean == pytest.approx(0.7 - 0.3)
    assert results.branch_trace("image-patch4", "teacher").mean == 0.25
    assert results.adjoint("image-patch4", "end alone") == [0.5]
    assert results.adjoint("image-patch4", "end alone", "path") == [9.0]


def test_placements_are_read_trained_and_as_they_begin(records):
    assert results.placements("image-patch7", "no norm", "norms").tolist() == [[0.5, 0]]
    assert results.placements("image-patch7", "no norm", "norms", trained=False).tolist() == [[0.1, 0], [0.2, 0]]


def test_records_of_a_folder_are_gathered_by_kind_and_teacher(tmp_path):
    for name in ("gradients-flow-text-classifier-seed0", "gradients-spectra-a-seed1", "dynamics-flow-a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"record": {"name": name}, "identity": 1}))
    found = results.gathered(tmp_path)
    assert {kind: list(rows) for kind, rows in found.items()} == {
        "flow": ["text-classifier-seed0"],
        "spectra": ["a-seed1"],
    }
