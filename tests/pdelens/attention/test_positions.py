import numpy as np
import pytest
import torch

from pdelens import Chain, Flow, Grid
from pdelens.attention import positions
from pdelens.attention.positions import PositionShare, position_share
from pdelens.intervals import bootstrap_interval


def random_maps(examples, heads, tokens, visible, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(examples, heads, tokens, tokens, generator=generator, dtype=torch.float64)
    return torch.softmax(logits.masked_fill(~visible, float("-inf")), -1)


def plain_share(calibration, heldout, lattice, allowed):
    """Loops over queries, keys and examples; offsets by least squares with a free constant in each row."""
    first, places = lattice.special[0], lattice.places
    own = slice(first, first + places)
    place = [tuple(row) for row in lattice.positions().tolist()]

    def centred(maps):
        logs = np.log(np.maximum(maps[..., own, own].numpy(), 1e-300))
        found = np.zeros_like(logs)
        for query in range(places):
            keys = [key for key in range(places) if allowed[query, key]]
            found[..., query, keys] = logs[..., query, keys] - logs[..., query, keys].mean(-1, keepdims=True)
        return found

    pairs = [(query, key) for query in range(places) for key in range(places) if allowed[query, key]]
    offsets = sorted({tuple(np.subtract(place[key], place[query])) for query, key in pairs})
    design = np.zeros((len(pairs), len(offsets) + places))
    for number, (query, key) in enumerate(pairs):
        design[number, offsets.index(tuple(np.subtract(place[key], place[query])))] = 1
        design[number, len(offsets) + query] = 1
    mean, logs = centred(calibration).mean(0), centred(heldout)
    fitted = np.zeros_like(mean)
    for head in range(len(mean)):
        values = np.array([mean[head][pair] for pair in pairs])
        best = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        for pair, value in zip(pairs, best, strict=True):
            fitted[head][pair] = value
    found = {"total": (logs**2).sum((-2, -1))}
    for name, guess in (("pair", mean), ("offset", fitted)):
        found[name] = found["total"] - ((logs - guess) ** 2).sum((-2, -1))
        found[f"{name}, unbiased"] = (logs * guess).sum((-2, -1))
    return found


@pytest.mark.parametrize("lattice", [Chain(6, special=(1, 1)), Grid(3, 4, special=2)], ids=str)
def test_shares_are_those_of_a_plain_loop_over_the_keys_that_every_head_sees(lattice):
    tokens = lattice.tokens
    generator = torch.Generator().manual_seed(5)
    heads = torch.rand(2, tokens, tokens, generator=generator) < 0.85
    heads |= (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs() < 2
    visible = heads[None].expand(4, 2, tokens, tokens).clone()
    visible[1, :, :, 3] = False
    visible[1, :, 3, 3] = True
    maps = [random_maps(4, 2, tokens, visible, seed) for seed in range(4)]
    flows = [Flow(attention=maps[n : n + 2], visible=[visible] * 2) for n in (0, 2)]
    found = position_share(*flows, lattice)
    own = slice(lattice.special[0], lattice.special[0] + lattice.places)
    allowed = visible[..., own, own].flatten(0, 1).all(0)
    assert 0 < int((~allowed).sum()) < allowed.numel()
    for layer in range(2):
        wanted = plain_share(maps[layer], maps[2 + layer], lattice, allowed)
        np.testing.assert_allclose(found.total[:, layer], wanted.pop("total"), rtol=1e-9)
        for name, value in wanted.items():
            np.testing.assert_allclose(found.explained[name][:, layer], value, rtol=1e-7, atol=1e-9, err_msg=name)


def test_layers_that_see_different_keys_are_projected_by_their_own():
    lattice, whole = Chain(6), torch.ones(4, 1, 6, 6, dtype=torch.bool)
    visible = [whole, whole.tril(1).triu(-2), whole]
    maps = [random_maps(4, 2, 6, seen, seed) for seed, seen in enumerate(visible)]
    flow = Flow(attention=maps, visible=visible)
    found = position_share(flow, flow, lattice)
    for layer, seen in enumerate(visible):
        wanted = plain_share(maps[layer], maps[layer], lattice, seen[0, 0])
        np.testing.assert_allclose(found.explained["offset"][:, layer], wanted["offset"], rtol=1e-7, atol=1e-9)


def test_a_share_is_of_all_examples_together_and_the_median_is_over_heads():
    generator = torch.Generator().manual_seed(0)
    explained, total = torch.rand(6, 2, 3, generator=generator), 1 + torch.rand(6, 2, 3, generator=generator)
    share = PositionShare({"pair": explained}, total)
    np.testing.assert_allclose(share.heads("pair"), explained.double().sum(0) / total.double().sum(0))
    value, interval = share.median("pair", group=2)
    assert value == pytest.approx(np.median(explained.double().sum(0) / total.double().sum(0)))
    rows = np.stack([v.double().view(3, 2, 6).mean(1).numpy() for v in (explained, total)], 1)
    wanted = bootstrap_interval(rows, lambda drawn: np.median(drawn.sum(0)[0] / drawn.sum(0)[1]), resamples=400)
    assert interval == pytest.approx(wanted)


def test_what_all_layers_see_is_worked_out_once(monkeypatch):
    made, projection = [], positions._offset_projection
    monkeypatch.setattr(positions, "_offset_projection", lambda *about: made.append(1) or projection(*about))
    maps = [torch.softmax(torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(n)), -1) for n in range(3)]
    positions.position_share(Flow(attention=maps), Flow(attention=maps), Chain(6))
    assert made == [1]
    hidden = torch.ones(4, 2, 6, 6, dtype=torch.bool)
    hidden[..., 5, 0] = False
    windowed = [layer * hidden / (layer * hidden).sum(-1, keepdim=True) for layer in maps]
    seen = (hidden.new_ones(4, 2, 6, 6), hidden, hidden)
    flow = Flow(attention=[maps[0], *windowed[1:]], visible=seen)
    positions.position_share(flow, flow, Chain(6))
    assert made == [1, 1, 1]
