"""Numbers over seeds: as they are recorded, quoted and shown."""

import json

import numpy as np
import pytest

import companion
from companion import seeds


@pytest.fixture
def recorded(project_copy):
    """Give an open chapter, and a function that closes it and returns its records."""
    companion.start_chapter("50-small")

    def close():
        companion.finish_chapter()
        return json.loads((project_copy / "data/results/50-small.json").read_text())["records"]

    return close


def test_a_mean_is_recorded_with_its_seeds_interval_and_tolerance(recorded):
    assert seeds.record_mean("a", seeds.over_seeds([0.5, 0.7]), "nats") == "0.600 ± 1.271"
    assert seeds.record_mean("b", seeds.over_seeds([0.25])) == "0.250"
    assert seeds.record_mean("c", seeds.over_seeds([])) == "–"
    found = recorded()
    # Student's interval of two numbers: 12.706 standard errors of 0.1.
    assert found["a"]["interval"] == pytest.approx([0.6 - 1.2706, 0.6 + 1.2706], abs=1e-4)
    assert {name: found["a"][name] for name in ("value", "unit", "seeds", "atol", "rtol")} == {
        "value": 0.6,
        "unit": "nats",
        "seeds": 2,
        "atol": 0,
        "rtol": 1e-6,
    }
    assert found["b"]["seeds"] == 1 and found["b"]["unit"] == "1" and "interval" not in found["b"]
    assert found.keys() == {"a", "b"}


def test_prose_is_told_where_there_is_one_seed(recorded, monkeypatch):
    quoted = []
    monkeypatch.setattr(seeds, "quote", lambda *keys: quoted.extend(keys))
    means = [seeds.over_seeds(values) for values in ([0.5, 0.7], [0.25], [])]
    for key, mean in zip("abc", means, strict=True):
        assert seeds.quote_mean(key, mean, "nats") is mean
    found = recorded()
    texts = [found[f"{key}.text"]["value"] for key in "abc"]
    assert texts == ["0.600 ± 1.271", "0.250 (one seed)", "–"]
    assert quoted == ["a.text", "b.text", "c.text"] and found["a"]["unit"] == "nats"
    assert all(found[f"{key}.text"]["unit"] == "text" for key in "abc")


@pytest.mark.parametrize(
    ("mean", "interval", "text"),
    [
        (9.994, None, "9.994"),
        (10.0, None, "10.0"),
        (-99.94, None, "-99.9"),
        (100.0, None, "100"),
        (1.0, (-11.0, 13.0), "1.0 ± 12.0"),
        (2.0, (1.0, 3.0), "2.000 ± 1.000"),
        (-250.0, (-251.0, -249.0), "-250 ± 1"),
        (float("nan"), None, "–"),
        (float("inf"), None, "–"),
    ],
)
def test_digits_follow_the_larger_of_mean_and_half_width(mean, interval, text):
    assert str(seeds.SeedMean(mean, interval, (mean,))) == text


def test_one_seed_has_no_interval_and_two_have_a_low_end():
    one, two = seeds.over_seeds([0.3]), seeds.over_seeds(np.array([1.0, 3.0], np.float32))
    assert one.interval is None and one.low == 0.3 and one.seeds == (0.3,)
    assert two.mean == 2.0 and two.low == pytest.approx(2 - 12.7062, abs=1e-3)
    assert np.isnan(seeds.over_seeds([]).mean)
