"""The gradients that a page shows, on a small teacher."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_teacher import Tiny, teacher

from companion.dynamics import gradient_shown as shown
from companion.dynamics import gradients


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(gradients, "STEPS", tuple(map(float, range(7))))
    monkeypatch.setattr(shown, "KNOWN", 6)
    monkeypatch.setattr(shown, "beside", lambda name, count: Tiny(teacher(0), count))
    monkeypatch.setattr(shown, "cached_teacher", lambda name: teacher(int(name[-1])))
    return shown.shown_gradients("image-tiny", 2)


def by_pixels(model, picture):
    pixels = picture[None].float().requires_grad_()
    u = model.embed.project(pixels[:, None] / 127.5 - 1).flatten(2).transpose(1, 2) + model.positions
    for block in model.blocks:
        u = block(u, None)
    loss = F.cross_entropy(model.readout(u), torch.tensor([0]))
    return torch.autograd.grad(loss, pixels)[0][0]


def test_pictures_are_gradients_by_pixels_where_the_pixels_are(found):
    assert tuple(found.gradients) == shown.SHOWN
    for row in (0, 1):
        exact = by_pixels(teacher(0).model, found.one.inputs[row])
        torch.testing.assert_close(found.pictures(row)["teacher"], exact, atol=1e-7, rtol=1e-3)
    other = by_pixels(teacher(1).model, found.one.inputs[1])
    torch.testing.assert_close(found.pictures(1)[shown.OTHER], other, atol=1e-7, rtol=1e-3)
    cosine = torch.cosine_similarity(other.flatten(), exact.flatten(), dim=0)
    assert float(found.cosines[shown.OTHER][1]) == pytest.approx(float(cosine), abs=1e-4)


def test_saliencies_are_shares_of_real_pieces(found, monkeypatch):
    mask = torch.tensor([[True, True, True, False]] * 2)
    texts = {"inputs": torch.tensor([[5, 6, 7, 0]] * 2), "mask": mask}
    text = SimpleNamespace(inputs=texts, reference=SimpleNamespace(mask=mask))
    monkeypatch.setattr(shown, "pieces", lambda tokens, mask: [str(int(number)) for number in tokens[mask]])
    words, shares = shown.Shown(text, found.gradients).saliencies(1)
    own = found.gradients["teacher"].saliency()[1, :3]
    assert words == ["5", "6", "7"]
    torch.testing.assert_close(shares["teacher"], own / own.sum())
