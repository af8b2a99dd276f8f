"""Rows of the teachers' tables, against sizes and intervals worked out by hand."""

import numpy as np
import pytest
from scipy.stats import t

from companion.teachers import recipes, results, teacher_rows

PICTURES = {"width": 8, "layers": 3, "heads": 2, "outputs": 5, "side": 12, "patch": 4}


def test_a_size_counts_what_the_architecture_says():
    found = teacher_rows.size_of({"configuration": PICTURES, "steps": 7, "batch": 10})
    d, tokens, layers = 8, 9, 3
    norm = 2 * d
    attention, forward = 4 * (d * d + d), (d * 4 * d + 4 * d) + (4 * d * d + d)
    block = attention + forward + 2 * norm
    ends = (16 * d + d) + tokens * d + norm + (d * 5 + 5)  # patches, positions, last norm, read-out
    assert found.parameters == layers * block + ends and found.tokens == tokens
    assert found.in_layers == pytest.approx(layers * block / (layers * block + ends))
    # Two operations for each weight and token, and two products of (tokens, tokens) with d channels a layer.
    multiplied = tokens * (layers * 12 * d * d + 16 * d) + layers * 2 * tokens**2 * d
    assert found.flops == pytest.approx(2 * multiplied, rel=0.01)
    assert found.training == pytest.approx(found.flops * 3 * 7 * 10 / 1e12)
    assert (found.steps, found.batch) == (7, 10)


def test_a_size_is_shown_in_six_cells():
    size = teacher_rows.Size(9, 12345, 0.456, 7.6e6, 2800, 128, 35.4)
    assert size.shown() == ["9", "12,345", "46%", "8", "2,800 x 128", "35"]


@pytest.mark.parametrize(("measure", "unit"), [("accuracy", "share"), ("loss", "nats")])
def test_seeds_have_students_interval(measure, unit):
    values = [0.71, 0.74, 0.72, 0.78, 0.75]
    known = {f"a-seed{n}": {f"test_{measure}": value} for n, value in enumerate(values)}
    known["a-seed5"] = {f"test_{measure}": 99.0}  # a sixth is not looked at
    found = teacher_rows.over_seeds(known, "a", measure)
    half = t.ppf(0.975, 4) * np.std(values, ddof=1) / 5**0.5
    assert found.value == pytest.approx(0.74) and found.unit == unit and found.seeds == 5
    assert found.interval == pytest.approx((0.74 - half, 0.74 + half))


def test_a_plain_method_has_wilsons_interval():
    found = teacher_rows.plain_mark({"test_accuracy": 0.8, "test_examples": 50}, "accuracy")
    z, p, n = 1.959964, 0.8, 50
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert found.interval == pytest.approx([(middle + s * half) / (1 + z**2 / n) for s in (-1, 1)])
    assert (found.value, found.unit, found.over, found.seeds) == (0.8, "share", "50 examples", None)


def test_a_plain_method_with_seeds_has_students_interval():
    values = [0.89, 0.91, 0.93]
    about = {"test_accuracy": 0.91, "test_examples": 50, "test_accuracies": values}
    found = teacher_rows.plain_mark(about, "accuracy")
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert found.interval == pytest.approx((0.91 - half, 0.91 + half)) and found.value == pytest.approx(0.91)
    assert (found.over, found.seeds) == ("t, 3 seeds", 3)
    alone = teacher_rows.plain_mark(about | {"test_accuracies": values[:1]}, "accuracy")
    assert alone == teacher_rows.plain_mark({"test_accuracy": 0.91, "test_examples": 50}, "accuracy")


def test_a_loss_without_seeds_has_no_interval():
    found = teacher_rows.plain_mark({"test_loss": 4.5}, "loss")
    assert (found.value, found.unit, found.interval) == (4.5, "nats", None)
    assert found.shown() == ["4.50", "none", "one model"]


def test_a_mark_is_shown_with_its_interval():
    mark = teacher_rows.Mark(0.1234, "share", (0.1, 0.2), "t, 5 seeds", 5)
    assert mark.shown() == ["12.3%", "10.0% to 20.0%", "t, 5 seeds"]


def test_every_row_names_something_that_was_trained_or_measured():
    known, plain = results.histories(), results.plain_methods()
    for family in teacher_rows.FAMILIES:
        assert f"{family}-seed0" in known
    for family, _, against in teacher_rows.TASKS:
        assert all(f"{family}-seed{n}" in known for n in range(teacher_rows.SEEDS))
        assert against.keys() <= plain.keys()
    for family in ("image-patch7", "text-short"):
        for variant in filter(None, teacher_rows.VARIANTS):
            assert recipes.recipe_named(f"{family}-{variant}-seed0").variant == variant
