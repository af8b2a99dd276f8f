import math

import pytest
import torch

from pdelens.attention import tiles
from pdelens.attention.statistics import attend_with_statistics, attention_statistics
from pdelens.attention.tiles import TiledAttention, TiledMaps, refuse_overflow


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ON_CPU", 300)
    monkeypatch.setattr(tiles, "SMALLEST_TILE", 4)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("spare", [0, 1, 3])
def test_a_tile_has_as_many_spare_buffers_as_asked_for_and_all_are_apart(fine, spare, small):
    attention = TiledAttention(random(2, 3, 21, 4), random(2, 3, 21, 4, seed=1), causal=True, fine=fine)
    for tile in attention.tiles(spare):
        buffers = [tile.logits, tile.weights, *tile.spare]
        assert len(tile.spare) == spare and len({buffer.data_ptr() for buffer in buffers}) == spare + 2
        assert all(buffer.shape == tile.weights.shape and buffer.dtype == torch.float32 for buffer in buffers)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_tiles_hold_every_weight_once(causal, window, fine, small):
    query, key = random(2, 4, 21, 5), random(2, 2, 21, 5, seed=1)
    padding = torch.arange(21) < torch.tensor([[21], [15]])
    attention = TiledAttention(query, key, padding, causal, window, fine=fine)
    apart = torch.arange(21)[:, None] - torch.arange(21)
    allowed = (apart >= 0 if causal else apart > -99) & (apart.abs() < (window or 99)) & padding[:, None, None]
    logits = query.double() @ key.double().repeat_interleave(2, 1).mT * 5**-0.5
    wanted = torch.softmax(logits.masked_fill(~allowed, -math.inf), -1).nan_to_num(0).flatten(0, 1)
    found, rows, tile_count = torch.zeros(8, 21, 21, dtype=torch.float64), [], 0
    for tile in attention.tiles():
        assert tile.weights.numel() <= max(300, 4 * 21)
        share = (tile.weights / tile.total[..., None]).masked_fill(tile.allowed[..., None] == 0, 0)
        found[tile.heads, tile.queries, tile.keys] += share
        torch.testing.assert_close(tile.weights, torch.exp2(tile.logits))
        assert float(tile.logits.max()) <= 0
        peak = logits.masked_fill(~allowed, -1e30 * math.log(2)).flatten(0, 1)[tile.heads, tile.queries].amax(-1)
        seen = tile.allowed > 0
        torch.testing.assert_close((tile.peak.double() * math.log(2))[seen], peak[seen], atol=1e-5, rtol=1e-5)
        rows.append(tile.allowed.clone())
        tile_count += 1
    assert tile_count > 4
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    counts = allowed.expand(2, 4, 21, 21).sum(-1).flatten(0, 1)
    assert torch.equal(attention.joined(rows), counts)


def test_a_mask_for_all_examples_or_heads_is_held_once():
    query, key = random(2, 3, 4, 6, 5), random(2, 3, 4, 6, 5, seed=1)
    full = torch.rand(1, 1, 1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.7
    full[..., 0] = True
    attention = TiledAttention(query, key, full)
    assert attention.mask is not None and attention.mask.shape == (1, 1, 6, 6)
    assert attention.mask.untyped_storage().data_ptr() == full.untyped_storage().data_ptr()
    assert attention.padding is None
    heads = TiledAttention(query, key, full.expand(1, 1, 4, 6, 6).clone())
    assert heads.mask is not None and heads.mask.shape == (1, 4, 6, 6)
    padding = TiledAttention(query, key, torch.ones(2, 1, 6, dtype=torch.bool))
    assert padding.mask is not None and padding.mask.shape == (6, 1, 1, 6)
    assert padding.padding is not None and padding.padding.shape == (6, 6)
    every = [attention_statistics(query, key, mask=mask).entropy for mask in (full, full.expand(2, 3, 4, 6, 6))]
    torch.testing.assert_close(*every)


@pytest.mark.parametrize("heads_apart", [False, True])
@pytest.mark.parametrize("rows_apart", [False, True])
@pytest.mark.parametrize("size", [40, 300, 4000])
def test_masks_that_broadcast_are_as_if_written_out(heads_apart, rows_apart, size, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ON_CPU", size)
    monkeypatch.setattr(tiles, "SMALLEST_TILE", 4)
    query, key, value = (random(2, 3, 9, 4, seed=s) for s in range(3))
    shape = (2, 3 if heads_apart else 1, 9 if rows_apart else 1, 9)
    bias = random(*shape, seed=4)
    bias[..., 2] = -math.inf
    output, found = attend_with_statistics(query, key, value, mask=bias)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    torch.testing.assert_close(output, plain)
    assert found.allowed.unique().tolist() == [8]


def test_logits_that_overflow_in_one_row_are_refused():
    query, key = random(1, 2, 5, 4), 1e30 * random(1, 2, 5, 4, seed=1)
    attention_statistics(query, key)
    query[0, 1, 3] *= 1e20
    with pytest.raises(ValueError, match="logits are not finite"):
        attention_statistics(query, key)
    sums = torch.tensor([1.0, math.nan, 2.0])
    refuse_overflow(sums, torch.tensor([False, True, False]))
    for empty in ([False, False, False], [True, False, True]):
        with pytest.raises(ValueError, match="logits are not finite"):
            refuse_overflow(sums, torch.tensor(empty))


def test_explicit_maps_are_read_as_their_own_softmax(small):
    maps = torch.softmax(3 * random(2, 3, 21, 17), -1)
    maps[0, 1, 5, :9] = 0
    maps[1, 2, 7] = 0
    attention = TiledMaps(2 * maps)
    found, counts = torch.zeros(6, 21, 17), []
    for tile in attention.tiles():
        found[tile.heads, tile.queries, tile.keys] = tile.weights / tile.total[..., None]
        counts.append(tile.allowed.clone())
    counted = attention.joined(counts)
    assert torch.equal(counted, (maps > 0).sum(-1).flatten(0, 1))
    wanted = (maps / maps.sum(-1, keepdim=True)).flatten(0, 1)
    torch.testing.assert_close(found[counted > 0], wanted[counted > 0])


@pytest.mark.parametrize("bad", [-1e-3, math.nan, math.inf])
def test_one_wrong_weight_among_many_is_refused(bad):
    maps = torch.softmax(random(1, 2, 4, 5), -1)
    maps[0, 1, 2, 3] = bad
    with pytest.raises(ValueError, match="negative or not finite"):
        TiledMaps(maps)
