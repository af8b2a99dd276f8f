import matplotlib.pyplot as plt
import numpy as np
import pytest

from companion.figures import refinement
from companion.surrogates import evaluate, results


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Two seeds of an equation that falls from .9 to .3 when refined, and diverges on the way in one of them."""
    specs = {
        f"rung-image-full-seed{seed}": {
            "made": {"subject": f"image-seed{seed}"},
            "judged": {
                resolution: {"cosine": [0.9 - 0.1 * number - 0.02 * seed]}
                if resolution != "16" or seed
                else {"diverged": "at 3"}
                for number, resolution in enumerate(evaluate.RESOLUTIONS)
            },
        }
        for seed in (0, 1)
    }
    specs["rung-image-alone-seed0"] = specs["rung-image-full-seed1"]
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": specs})


def test_curves_follow_the_ways_of_stepping_over_seeds():
    found = refinement.curve("image", "full")
    assert refinement.LABELS == ("1", "2", "4", "8", "16", "∞")
    assert found.mean[[0, 1, 5]] == pytest.approx([0.89, 0.79, 0.39]) and np.isnan(found.mean[4])
    assert np.all(found.low[:4] < found.mean[:4]) and np.all(found.high[:4] > found.mean[:4])
    single = refinement.curve("image", "alone")
    assert np.isnan(single.low).all() and single.mean[0] == pytest.approx(0.88)
    assert np.isnan(refinement.curve("image", "nothing").mean).all()


def test_an_interval_wider_than_the_panel_hides_nothing():
    _, axes = plt.subplots()
    mean = np.array([0.9, 0.5, -0.5, -3.0, 0.1, 0.8])
    half = np.array([0.1, 0.1, 5.0, 0.1, np.nan, 0.1])
    refinement.draw(axes, {"a field": (refinement.Curve(mean, mean - half, mean + half), {})}, floor=-1.0)
    bars, band = axes.collections
    assert [line[0, 0] for line in bars.get_segments()] == [0, 1, 5]
    assert {vertex[0] for path in band.get_paths() for vertex in path.vertices} <= {0.0, 1.0, 5.0}
    plt.close("all")


def test_what_lies_below_the_floor_is_drawn_there():
    _, axes = plt.subplots()
    found = refinement.alone([0.9, 0.5, -0.5, -3.0, 0.1, np.nan])
    refinement.draw(axes, {"a field": (found, {"color": "C2"})}, floor=-1.0)
    line, under = axes.lines
    assert line.get_label() == "a field" and line.get_ydata()[:4] == pytest.approx([0.9, 0.5, -0.5, -1.0])
    assert under.get_xdata().tolist() == [3] and axes.get_ylim()[0] == -1
    plt.close("all")
