"""What the page measures itself: bounds that hold, classes drawn together, two teachers on the same inputs."""

import math

import pytest
import torch
from tiny_teacher import teacher

from companion.bottleneck import live, measures
from pdelens.information.noise import noisy_information

STATES = torch.randn(90, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(90) % 3
FAR = STATES + 40.0 * torch.eye(6, dtype=torch.float64)[LABELS]


@pytest.mark.parametrize("noise", [0.5, 2.0, 8.0])
def test_the_bound_holds_and_is_reached_where_noise_is_large(noise):
    found = float(noisy_information(STATES, noise, relative=True, draws=40))
    assert found < live.bound(6, noise) + 1e-3
    if noise == 8:
        assert found == pytest.approx(float(live.bound(6, noise)), rel=0.05)


def test_no_half_noise_is_above_the_bounds():
    highest = live.highest_half_noise(6, 90)
    assert float(live.bound(6, highest)) == pytest.approx(math.log(90) / 2)
    assert measures.half_noise(STATES)[0] < highest


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_classes_drawn_together_keep_their_means_and_have_the_share(share):
    found = live.drawn_together(FAR, LABELS, share)
    assert measures.scatter_share(found, LABELS) == pytest.approx(share, abs=1e-9)
    torch.testing.assert_close(found - measures.residuals(found, LABELS), FAR - measures.residuals(FAR, LABELS))
    with pytest.raises(ValueError, match="between 0 and 1"):
        live.drawn_together(FAR, LABELS, 1.0)


def test_what_is_predicted_is_there_where_classes_lie_apart_and_a_bound_elsewhere():
    noise = 0.02
    found, wanted = float(noisy_information(FAR, noise, relative=True)), live.predicted(FAR, LABELS, noise)
    assert math.log(3) < wanted < math.log(90) and found == pytest.approx(wanted, abs=0.03)
    assert float(noisy_information(STATES, 1.0, relative=True)) < live.predicted(STATES, LABELS, 1.0) - 0.2


def test_trained_and_untrained_are_swept_on_the_same_inputs(monkeypatch):
    monkeypatch.setattr(live, "cached_teacher", lambda name: teacher(0))
    found = live.swept("image-tiny-seed0", 12)
    assert found.inputs == 12 and found.width == 4 and found.numbers == 16 and found.ceiling == math.log(12)
    assert set(found.curves) == {
        f"{name}, {kind}" for name in ("trained", "untrained") for kind in ("pooled", "tokens")
    }
    first = found.flows["trained"].states[3].double()
    row, error = measures.curve(first.mean(1), measures.POOLED)
    assert found.curves["trained, pooled"][3].tolist() == pytest.approx(row, abs=1e-6) and error <= found.error
    row, _ = measures.curve(found.flows["untrained"].states[2], measures.TOKENS)
    assert found.curves["untrained, tokens"][2].tolist() == pytest.approx(row, abs=1e-6)
