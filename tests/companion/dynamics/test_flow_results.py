"""What the page reads of the jobs' records: by seed, over those that have it, cropped to nothing."""

import json

import pytest
import torch

from companion.dynamics import flow_results
from companion.dynamics.information_flow import UNIT

RECORD = {
    "states": {"three laws": [0.9, 0.7, 0.8]},
    "profiles": {"three laws": {"norm": [1.0, 2.0], "gap": {"norm": 0.1}}},
    "influence": {"0": {"teacher": {"rollout": {"rank": 0.5}}, "own": {"rollout": 0.2}}},
    "shown": {"examples": [7, 2, 4], "agreement": [0.1, 0.5, 0.9]},
    "targets": [[0, 1], [2, 3], [4, 5]],
    "maps": {"2": {"teacher": [[0, 10_000, 0], [2_500, 0, 7_500]]}},
}


@pytest.fixture
def records(monkeypatch):
    second = RECORD | {"states": {"three laws": [0.5, 0.6, 0.7], "one-step field": [0.3, 0.2]}}
    other = RECORD | {"states": {"three laws": [0.0]}}
    rows = {"image-patch4-seed1": second, "image-patch4-seed0": RECORD, "image-patch40-seed0": other}
    monkeypatch.setattr(flow_results, "flow_records", lambda: rows)


def test_numbers_are_over_the_seeds_that_have_them(records):
    assert flow_results.worst_r2("image-patch4", "three laws").seeds == (0.7, 0.5)
    assert flow_results.mean_r2("image-patch4", "three laws").seeds == pytest.approx((0.8, 0.6))
    assert flow_results.worst_r2("image-patch4", "one-step field").seeds == (0.2,)
    assert flow_results.worst_r2("image-patch4", "nothing").seeds == ()
    assert flow_results.over("image-patch4", lambda record: None).seeds == ()
    assert flow_results.gap("image-patch4", "three laws", "norm").mean == pytest.approx(0.1)
    assert flow_results.influence("image-patch4", "rollout", "rank", "teacher").seeds == (0.5, 0.5)
    assert flow_results.influence("image-patch4", "rollout", "own", "teacher").mean == 0.2
    assert flow_results.curve("image-patch4", "three laws", "norm").tolist() == [[1, 2], [1, 2]]
    assert flow_results.curve("image-patch4", "nothing", "norm").shape == (0,)


def test_shown_examples_and_their_rows(records):
    assert flow_results.shown("image-patch4") == {"median": (2, 0.5), "worst": (7, 0.1)}
    targets, found = flow_results.stored_rows("image-patch4", 2)
    assert targets.tolist() == [2, 3]
    torch.testing.assert_close(found["teacher"], torch.tensor(RECORD["maps"]["2"]["teacher"]).double() * UNIT)


def test_records_of_a_folder_are_gathered_by_part_and_teacher(tmp_path):
    for name in ("dynamics-flow-image-patch4-seed0", "dynamics-flow-text-seed1", "dynamics-growth-a", "rung-a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"record": {"name": name}, "identity": 1}))
    found = flow_results.gathered(tmp_path)
    assert {part: list(rows) for part, rows in found.items()} == {
        "flow": ["image-patch4-seed0", "text-seed1"],
        "growth": ["a"],
    }
    assert found["flow"]["text-seed1"] == {"name": "dynamics-flow-text-seed1"}
    assert flow_results.gathered(tmp_path / "none") == {}
