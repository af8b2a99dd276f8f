import json

import numpy as np
import pytest

from companion import paths
from companion.estimators import results as records

TRIALS = {
    "header": {"samples": 100},
    "summary": {},
    "tasks": {
        "gaussian-channel-2-1.0": {"truth": 1.0, "dims": [2, 2]},
        "gaussian-channel-2-2.0": {"truth": 2.0, "dims": [2, 2]},
        "2x1v1-X-0.9": {"truth": 0.8, "dims": [2, 2]},
        "1v1-normal-0.75": {"truth": 0.4, "dims": [1, 1]},
        "1v1-X-0.9": {"truth": 0.4, "dims": [1, 1]},
    },
    "results": {
        "auto": [
            ["task", "seed", "value", "interval", "warned", "choice", "seconds"],
            ["1v1-normal-0.75", 0, 0.41, [0.3, 0.5], 0, "Gaussian copula", 1.0],
            ["1v1-normal-0.75", 1, 0.42, [0.41, 0.5], 1, "Gaussian copula", 1.0],
            ["1v1-X-0.9", 0, 0.3, [0.2, 0.5], 1, "corrected ksg", 3.0],
        ],
        "unseen": [
            ["task", "seed", "value", "interval", "warned", "choice", "seconds"],
            ["2x1v1-X-0.9", 0, 0.5, [0.4, 0.7], 0, "corrected ksg", 1.0],
        ],
        "table": [
            ["task", "method", "seed", "value", "seconds"],
            ["1v1-normal-0.75", "ksg", 0, 0.2, 0.1],
            ["1v1-normal-0.75", "ksg", 1, 0.4, 0.3],
        ],
        "panel": [
            ["task", "method", "samples", "seed", "value", "interval", "seconds"],
            ["gaussian-channel-2-1.0", "ksg", 50, 0, 0.9, None, 0.1],
            ["gaussian-channel-2-1.0", "ksg", 50, 1, 1.0, None, 0.1],
            ["gaussian-channel-2-2.0", "ksg", 50, 0, 1.0, None, 0.1],
            ["2x1v1-X-0.9", "ksg", 50, 0, 0.4, None, 0.1],
        ],
    },
}


@pytest.fixture
def trials(project_copy):
    path = project_copy / "data" / records.FILE
    path.write_text(json.dumps(TRIALS))
    paths.write_checksums({records.FILE: paths.sha256(path)})
    return records.load()


def test_grid_holds_means_over_truths(trials):
    found = records.grid(trials)
    assert found.methods == ("auto", "ksg") and found.tasks == ("1v1-normal-0.75", "1v1-X-0.9")
    np.testing.assert_allclose(found.ratios, [[0.415 / 0.4, 0.3 / 0.4], [0.3 / 0.4, np.nan]])
    np.testing.assert_allclose(found.seconds, [1.0, 0.2])
    assert found.error("ksg") == pytest.approx(0.25)


def test_panel_tells_channels_from_crossings(trials):
    panel = records.panel(trials)
    assert panel.samples == (50,) and panel.dims == (2,)
    truth, found = panel.curves(50, 2)["ksg"]
    assert truth.tolist() == [1, 2] and found.tolist() == pytest.approx([0.95, 1.0])
    assert panel.believed("ksg", 50, 2) == (1.0, 1.0, pytest.approx(0.5))
    assert panel.believed("ksg", 50, 2, within=0.6)[:2] == (1.0, 2.0)
    assert panel.believed("ksg", 50, 2, within=0.01)[:2] == (0.0, 0.0)


def test_coverage_is_counted_by_kind(trials):
    whole = records.covered(trials)
    assert (whole.results, whole.coverage) == (3, pytest.approx(2 / 3))
    assert (whole.close, whole.quiet) == (2, 0.5) and (whole.far, whole.warned) == (1, 1.0)
    assert records.covered(trials, "other").results == 1 and records.covered(trials, "elliptical").coverage == 0.5
    unseen = records.covered(trials, "unseen")
    assert (unseen.results, unseen.coverage, unseen.close, unseen.far, unseen.warned) == (1, 0.0, 0, 1, 0.0)
    assert records.covered(trials, "1v1-normal-0.75").error == pytest.approx(0.0375)
    with pytest.raises(ValueError, match="no result of auto is on 'none'"):
        records.covered(trials, "none")
