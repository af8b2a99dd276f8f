"""What heat costs and gains, read from small records whose answers are plain."""

import pytest

from companion.stabilisers import heat_results as heat
from companion.stabilisers.map_claims import STANDARD, name_of
from companion.stabilisers.training_map import RATES, Arm, heat_arms


def teacher(own, loss):
    depths = {"0": [own, loss], "1": [own, own - 0.01]}
    return {
        "own": {"loss": own}, "layers": 1, "amounts": [0.3, 3.0], "loss": depths,
        "disordered": {"0": [own, 2 * loss], "1": [own, own]},
        "moved": {"0": [0.1, 0.5], "1": [0.2, 0.6]}, "moved disordered": {"0": [0.3, 0.7], "1": [0.2, 0.6]},
        "commutator": {"trained": [0.1], "untrained": [0.2]},
    }  # fmt: skip


@pytest.fixture
def finished(monkeypatch):
    found = {
        "stabilisers-diffusion-image-patch4-seed1": teacher(0.5, 0.9),
        "stabilisers-diffusion-image-patch4-seed0": teacher(0.4, 0.6),
        "stabilisers-diffusion-text-classifier-seed0": teacher(0.6, 0.6),
    }
    monkeypatch.setattr(heat, "records", lambda part: found)


def test_costs_are_beside_each_teachers_own_loss(finished):
    assert heat.places("image") == ["0", "1"]
    assert heat.cost("image", "0", 3.0).seeds == pytest.approx((0.2, 0.4))
    assert heat.cost("image", "0", 3.0, "disordered").seeds == pytest.approx((0.8, 1.3))
    assert heat.of_strangers("image", "0", 3.0).seeds == pytest.approx((0.6, 0.9))
    assert heat.costs("image", 3.0).tolist() == [pytest.approx([0.2, -0.01]), pytest.approx([0.4, -0.01])]
    assert heat.dose("text", "1", 0.3).seeds == (0.2,)
    assert heat.dose("image", "0", 0.3, "moved disordered").mean == pytest.approx(0.3)
    assert heat.by_layer("image", "commutator", "untrained").tolist() == [[0.2], [0.2]]


def test_heat_while_training_is_compared_over_the_rates_that_both_had():
    arm = heat_arms("book")[0]
    usual = {
        "rates": list(RATES), "loss": [[0.1, 0.9, 0.8, 0.9, 1.0, 0.2, 0.3]], "begun": [{"loss": 2.3}],
    }  # fmt: skip
    heated = {"rates": list(RATES[1:5]), "loss": [[0.9, 0.75, None, 1.0]], "begun": [{"loss": 2.3}]}
    found = {name_of("image", 6, STANDARD): usual, arm.name: heated, "other": {}}
    assert heat.gained(arm, found).seeds == pytest.approx((0.05,))
    assert heat.networks(found) == [arm] and isinstance(arm, Arm)
