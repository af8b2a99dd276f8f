import matplotlib.pyplot as plt
import numpy as np
import pytest

from companion.figures import proportions
from companion.surrogates import results
from companion.surrogates.proportion_ladder import NAMES, Hypothesis

STEPS = {"full-k1": 1800, "full-k3": 1800, "full-k1-long": 5400}
VALUES = {"full-k1": 0.8, "full-k1-short": 0.7, "full-k1-long": 0.85, "full-k2": 0.75, "full-k3": 0.9, "unshared": 0.95}
FLOOR = {"cosine": 0.5, "r2": 0.25, "classes": 0.45}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Every family's cosine is its value, its R2 .1 lower, its classes .1 higher; main ones have a second seed."""
    rungs = {}
    for family in (*NAMES, "full-k1-long", *(f"{name}-one-step" for name in ("full-k1", "full-k3", "unshared"))):
        names = (family, f"{family}-short") if family == "full-k1-one-step" else (family,)
        for name in names:
            for seed in range(2 if STEPS.get(name, 0) == 1800 else 1):
                value = VALUES.get(name, 0.6) + seed / 50
                way = {"cosine": [[value]], "read": [[value - 0.3]], "r2": [value - 0.1], "classes": value + 0.1}
                rungs[f"rung-image-patch4-{name}-seed{seed}"] = {
                    "made": {"subject": "image-patch4-seed0", "plan": {"steps": STEPS.get(name, 600)}},
                    "judged": {"converged": way, "1": {"cosine": [value - 0.02]}},
                }
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": rungs})


def drawn(axes, marker, face=None):
    """Return the points of every line with a marker, and with a face where one is given."""
    return [
        np.column_stack(line.get_data()).tolist()
        for line in axes.lines
        if line.get_marker() == marker and len(line.get_xdata()) and (face is None or line.get_mfc() == face)
    ]


def test_the_poster_draws_attention_where_there_is_some_and_the_teachers_heads_elsewhere(axes):
    def one(label, share, attends=True):
        return Hypothesis(label, "", "1", 0, share, {}, attends)

    ladder = {"full-k1": one("full", 0.2), "full-k2": one("two", 0.4), "residual": one("R", 0.1, attends=False)}
    ladder["narrow-k1"] = one("narrow", 0.3)
    proportions.poster(axes, "image", ladder, {"identity": (0.0, 0.4)}, {"uniform": 0.5}, 0.45)
    squares, circles = (sorted(point for points in drawn(axes, marker) for point in points) for marker in "so")
    assert squares == [pytest.approx([4e-5, 0.4]), pytest.approx([0.1, 0.3])]
    assert circles == [pytest.approx([0.2, 0.81]), pytest.approx([0.4, 0.75])]
    # Filled: all steps; hollow: a third of them.
    assert drawn(axes, "o", "white") == [[pytest.approx([0.4, 0.75])]]
    assert drawn(axes, "D") == [[pytest.approx([0.3, 0.6])]]
    written = {text.get_text() for text in axes.texts}
    assert {"full", "two", "R", "narrow", "identity", "uniform", "another seed's teacher", "0.98"} <= written


def test_states_and_classes_stand_line_by_line(axes):
    plain = {"identity": {"r2": 0.1, "classes": 0.2}, "affine": {"r2": -0.5, "classes": 0.3}}
    proportions.states(axes, "image", plain, FLOOR)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["identity", "affine", *NAMES.values()]
    line = names.index("full, K = 2")
    circles = {round(y): x for ((x, y),) in drawn(axes, "o")}
    squares = {round(y): x for ((x, y),) in drawn(axes, "s")}
    assert circles[line] == pytest.approx(0.65) and squares[line] == pytest.approx(0.85)
    assert circles[0] == pytest.approx(0.1) and 1 not in circles and len(drawn(axes, "<")) == 1
    nulls = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert nulls == [0.25, 0.45]


def test_lines_join_only_what_one_policy_calibrated_for_equally_long(axes):
    proportions.sharing(axes, "image", FLOOR, depth=6)
    cosines = [line for line in axes.lines if line.get_color() == "C0" and line.get_marker() == "o"]
    found = [np.column_stack(line.get_data()).tolist() for line in cosines if len(line.get_xdata())]
    assert [[k for k, _ in points] for points in found] == [[1], [3], [1], [2, 6]]
    assert found[0] == [pytest.approx([1, 0.81])] and found[3] == [pytest.approx([2, 0.75]), pytest.approx([6, 0.95])]
    assert [line.get_mfc() for line in cosines][:4] == ["C0", "C0", "white", "white"]
    (stepped,) = drawn(axes, "^")
    assert [k for k, _ in stepped] == [1, 3, 6] and stepped[0][1] == pytest.approx(0.58)
    assert len(drawn(axes, "D")) == 2
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["1\n17%", "2\n33%", "3\n50%", "6\n100%"]


def test_a_calibrations_length_is_followed_in_one_seed_with_the_mean_over_seeds_beside_it(axes):
    proportions.lengths(axes, "image", FLOOR)
    (cosines, mean), (states, _) = drawn(axes, "o"), drawn(axes, "s")
    assert cosines == [pytest.approx([600, 0.7]), pytest.approx([1800, 0.8]), pytest.approx([5400, 0.85])]
    assert states[1] == pytest.approx([1800, 0.7]) and mean == [pytest.approx([1800 * 1.12, 0.81])]
    assert drawn(axes, "o", "white") == [mean]
    ends = next(line.get_ydata() for line in axes.lines if line.get_linewidth() == 1.6)
    assert ends == pytest.approx(results.seed_mean("image-patch4", "full-k1").interval)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["600", "1,800", "5,400"]


def test_one_legend_stands_below_both_panels():
    figure, (left, _) = plt.subplots(1, 2)
    left.plot([0], [0], label="one")
    left.plot([0], [0], label="two")
    proportions.legend_below(figure, left)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    plt.close(figure)
