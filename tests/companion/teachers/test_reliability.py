import pytest
import torch

from companion.teachers.reliability import reliability, reliability_floor


def calibrated(examples, seed=0):
    """Draw logits of two classes, and classes that are right exactly as often as the logits say."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(examples, 2, generator=generator)
    chance = torch.softmax(logits, -1)[:, 1]
    return logits, (torch.rand(examples, generator=generator) < chance).long()


def test_a_calibrated_classifier_has_only_chances_error():
    logits, labels = calibrated(4000)
    found = reliability(logits, labels)
    floor = reliability_floor(logits)
    assert floor == pytest.approx((2 * 0.7 * 0.3 / (torch.pi * 400)) ** 0.5, rel=0.15)
    assert found.error < 2 * floor
    assert float(found.examples.sum()) == 4000 and (found.confidence.diff() > 0).all()
    # Four times as many examples, half the error that chance leaves.
    assert reliability_floor(calibrated(16000)[0]) == pytest.approx(floor / 2, rel=0.1)


def test_overconfidence_shows():
    logits, labels = calibrated(4000)
    found = reliability(5 * logits, labels)
    assert (found.confidence >= found.accuracy).all()
    assert found.error > 10 * reliability_floor(5 * logits) > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: reliability(torch.randn(3, 2), torch.zeros(4).long()),
        lambda: reliability(torch.zeros(0, 2), torch.zeros(0).long()),
    ],
)
def test_answers_and_classes_must_agree(call):
    with pytest.raises(ValueError, match="each example needs both"):
        call()


def test_bins_must_have_examples():
    with pytest.raises(ValueError, match="10 bins of 4 examples"):
        reliability(torch.randn(4, 2), torch.zeros(4).long())
