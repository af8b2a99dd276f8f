import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pdelens import Chain, Grid
from pdelens.attention import moments
from pdelens.attention import tiles as attention_blocks
from pdelens.attention.pairs import attention_cosine, attention_divergence
from pdelens.attention.statistics import attend_with_statistics, attention_statistics, statistics_of

FLOAT32 = 2.0**-23


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def explicit_logits(query, key, allowed=None, bias=None):
    """Logits in float64, -inf where a key may not be seen."""
    key = key.double().repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    logits = query.double() @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    logits = logits if bias is None else logits + bias.double()
    return logits if allowed is None else logits.masked_fill(~allowed, -math.inf)


def explicit(logits, place=None, radii=(), rows=slice(None)):
    """Statistics of the stored map in float64, of some rows.

    `place` is (tokens, dims) or (batch, 1, tokens, dims), NaN where special.
    """
    weights = torch.softmax(logits, -1)
    wanted = {
        "entropy": torch.special.entr(weights).sum(-1),
        "collision": weights.square().sum(-1),
        "logsumexp": logits.logsumexp(-1),
    }
    if place is None:
        return wanted
    place = place.double()
    lost = place.isnan().any(-1)
    displacement = place.unsqueeze(-3) - place[..., rows, :].unsqueeze(-2)
    distance = displacement.norm(dim=-1)
    inner = weights.masked_fill(lost.unsqueeze(-2), 0)
    landed = inner.sum(-1, keepdim=True)
    # Keys that are special have no weight; queries that are keep their NaN.
    displacement = torch.where(lost[..., None, :, None], 0.0, displacement)
    share = inner / landed
    drift = torch.einsum("...qk,...qkd->...qd", share, displacement)
    central = displacement - drift.unsqueeze(-2)
    wanted["special_mass"] = 1 - landed.squeeze(-1)
    wanted["drift"] = drift
    wanted["diffusivity"] = torch.einsum("...qk,...qkd,...qke->...qde", share, central, central) / 2
    near = [torch.where(lost[..., rows, None], math.nan, inner * (distance <= radius)).sum(-1) for radius in radii]
    wanted["mass_within"] = torch.stack(near, -1) if radii else None
    return wanted


def check(found, wanted, logits, exact=FLOAT32):
    """Compare as promised: 1e-5 + 8 eps |logit| for what logits make, 1e-4 for displacement (1e-9 in float64)."""
    largest = float(logits[logits.isfinite()].abs().max())
    slack = (1e-5 if exact == FLOAT32 else 1e-12) + 8 * exact * largest
    coarse = 1e-4 if exact == FLOAT32 else 1e-9
    for name, value in wanted.items():
        if value is None:
            continue
        got = getattr(found, name).double()
        rtol, atol = (coarse, coarse) if name in ("drift", "diffusivity") else (0, slack)
        close = torch.isclose(got, value.expand_as(got), rtol=rtol, atol=atol, equal_nan=True)
        assert close.all(), (name, got[~close], value.expand_as(got)[~close])


@pytest.fixture(params=["small tiles", "large tiles"])
def tiles(request, monkeypatch):
    """Read in tiles that divide nothing evenly, or several heads and examples at once."""
    if request.param == "small tiles":
        monkeypatch.setattr(attention_blocks, "TILE_ON_CPU", 1100)
        monkeypatch.setattr(attention_blocks, "SMALLEST_TILE", 16)


def masks(name, batch, heads, tokens):
    """What is passed, and the equal full map of allowed keys (batch, heads, queries, keys), and what is added."""
    allowed = torch.ones(batch, heads, tokens, tokens, dtype=torch.bool)
    near = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs() < 9
    padding = torch.arange(tokens) < torch.tensor([tokens, tokens - 23])[:, None]
    padded = allowed & padding[:, None, None]
    full = torch.rand(batch, heads, tokens, tokens, generator=torch.Generator().manual_seed(1)) < 0.4
    full[..., 5] = True
    if name == "additive":
        bias = 2 * random(batch, heads, tokens, tokens, seed=2)
        bias[~full] = torch.tensor([-math.inf, torch.finfo(torch.float32).min])[torch.arange(int((~full).sum())) % 2]
        return {"mask": bias}, full, bias.clamp_min(-1e30)
    given, allowed = {
        "none": ({}, allowed),
        "padding": ({"mask": padding}, padded),
        "full": ({"mask": full}, full),
        "one for all heads": ({"mask": full[:, :1]}, full[:, :1].expand_as(full)),
        "one for all": ({"mask": full[:1, :1]}, full[:1, :1].expand_as(full)),
        "causal": ({"causal": True}, allowed.tril()),
        "causal, padded": ({"causal": True, "mask": padding}, padded.tril()),
        "causal window": ({"causal": True, "window": 9}, allowed.tril() & near),
        "window": ({"window": 9}, allowed & near),
    }[name]
    return given, allowed, None


@pytest.mark.parametrize(
    "name",
    "none|padding|full|one for all heads|one for all|causal|causal, padded|causal window|window|additive".split("|"),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_statistics_and_output_are_those_of_the_explicit_map(name, dtype, tiles):
    batch, heads, tokens = 2, 4, 70
    query, key, value = (random(batch, h, tokens, 8, seed=h, dtype=dtype) * 2 for h in (heads, 2, 2))
    lattice = Chain(67, special=(2, 1))
    place = torch.nn.functional.pad(lattice.positions().double(), (0, 0, 2, 1), value=math.nan)
    given, allowed, bias = masks(name, batch, heads, tokens)
    logits = explicit_logits(query, key, allowed, bias)
    radii = (0, 1.5, 4)
    output, found = attend_with_statistics(query, key, value, lattice, **given, within=radii)
    exact = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    check(found, explicit(logits, place, radii), logits, exact)
    assert torch.equal(found.allowed, allowed.sum(-1))
    plain = torch.softmax(logits, -1) @ value.double().repeat_interleave(2, 1)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), plain, rtol=torch.finfo(dtype).eps, atol=200 * exact)
    alone = attention_statistics(query, key, lattice, **given, within=radii)
    torch.testing.assert_close(vars(alone), vars(found), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("special", [0, (1, 2)])
def test_grids_and_positions_of_each_example(special, tiles):
    lattice = Grid(5, 7, special=special)
    query, key = (random(3, 2, lattice.tokens, 6, seed=s) * 2 for s in (1, 2))
    around = (0, 0, *lattice.special)
    place = torch.nn.functional.pad(lattice.positions().double(), around, value=math.nan)
    logits = explicit_logits(query, key)
    check(attention_statistics(query, key, lattice, within=(1, 3)), explicit(logits, place, (1, 3)), logits)
    # Every example with positions of its own, one of them with a special token more, in three dimensions.
    places = torch.cat([place, place[:, :1] * 2], -1) * torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    places[1, 3] = math.nan
    found = attention_statistics(query, key, places, within=(2,))
    check(found, explicit(logits, places[:, None], (2,)), logits)
    marked = attention_statistics(query, key, places.nan_to_num(7.0), special=places.isnan().any(-1), within=(2,))
    torch.testing.assert_close(vars(marked), vars(found), rtol=0, atol=0, equal_nan=True)


def test_special_tokens_without_positions():
    query, key = random(2, 3, 5, 4), random(2, 3, 5, 4, seed=1)
    special = torch.tensor([True, False, False, False, True])
    found = attention_statistics(query, key, special=special)
    share = torch.softmax(explicit_logits(query, key), -1)[..., special].sum(-1)
    torch.testing.assert_close(found.special_mass.double(), share, rtol=0, atol=1e-6)
    assert found.drift is None and found.diffusivity is None and found.mass_within is None
    assert float(attention_statistics(query, key, Chain(5)).special_mass.abs().max()) == 0
    assert attention_statistics(query, key, Chain(5), moments=False).drift is None


@pytest.mark.parametrize("offset", [0.0, 100000.0])
def test_long_chains_keep_their_moments(offset):
    """Wide rows, narrow ones far from the query, and one-hot ones, where raw second moments lose all digits."""
    tokens, rows = 4096, slice(5, None, 37)
    place = torch.arange(tokens).double()[:, None]

    def compare(query, key):
        found = attention_statistics(query, key, place.float() + offset)
        logits = explicit_logits(query[:, rows], key)
        wanted = explicit(logits, place, rows=rows)
        some = {name: getattr(found, name)[:, rows] for name in wanted if wanted[name] is not None}
        check(SimpleNamespace(**some), wanted, logits)
        return found

    for gain in (1, 10):
        compare(gain * random(1, tokens, 16, seed=3), random(1, tokens, 16, seed=4))
    centre = torch.randperm(tokens, generator=torch.Generator().manual_seed(5))
    # A key is two one-hot digits of its place: a query can ask for one place, or for 64 in a row.
    digit, high, low = torch.eye(64), torch.arange(tokens) // 64, torch.arange(tokens) % 64
    key = torch.cat([digit[high], digit[low]], -1)[None]
    found = compare(300 * 128**0.5 * key[:, centre], key)
    assert torch.equal(found.drift[0, :, 0], (centre - torch.arange(tokens)).float())
    assert float(found.diffusivity.abs().max()) == 0
    found = compare(30 * 128**0.5 * torch.cat([digit[high[centre]], torch.zeros(tokens, 64)], -1)[None], key)
    assert torch.allclose(found.diffusivity, torch.tensor((64**2 - 1) / 24), rtol=1e-5, atol=0)


def test_a_shift_head_has_drift_minus_one_and_no_diffusivity():
    tokens = 300
    key = torch.eye(tokens)[None]
    query = (1e4 * torch.eye(tokens)).roll(-1, 1)[None]
    found = attention_statistics(query, key, Chain(tokens), scale=1.0)
    assert torch.equal(found.drift[0, 1:, 0], torch.full((tokens - 1,), -1.0))
    assert float(found.diffusivity.abs().max()) == 0
    assert torch.equal(found.entropy, torch.zeros(1, tokens)) and torch.equal(found.collision, torch.ones(1, tokens))


def test_equal_logits_are_uniform():
    query = random(2, 50, 4)
    found = attention_statistics(query, torch.zeros(1, 50, 4), Chain(50), causal=True)
    count = torch.arange(1, 51).double()
    torch.testing.assert_close(found.entropy[0].double(), count.log(), rtol=0, atol=2e-6)
    torch.testing.assert_close((found.allowed * found.collision).rsqrt()[0], torch.ones(50), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.drift[0, :, 0].double(), -(count - 1) / 2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.diffusivity[0, :, 0, 0].double(), (count**2 - 1) / 24, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_large_logits(sign):
    query, key = torch.full((1, 40, 4), sign * 20.0), torch.ones(1, 40, 4) + 0.02 * random(1, 40, 4)
    logits = explicit_logits(query, key, None) * 2
    assert 79 < float(logits.abs().max()) < 85
    check(attention_statistics(query, key, Chain(40), scale=1.0), explicit(logits, Chain(40).positions()), logits)


def test_rows_that_see_one_key_or_none(tiles):
    query, key, value = (random(2, 2, 30, 4, seed=s) for s in range(3))
    allowed = torch.ones(2, 2, 30, 30, dtype=torch.bool)
    allowed[0, :, 3] = torch.arange(30) == 7
    allowed[1, 0, 4] = False
    output, found = attend_with_statistics(query, key, value, Chain(30), mask=allowed, within=(2,))
    one = (0, slice(None), 3)
    assert found.entropy[one].tolist() == [0, 0] and found.collision[one].tolist() == [1, 1]
    assert found.drift[one].tolist() == [[4], [4]] and found.diffusivity[one].flatten().tolist() == [0, 0]
    for values in (found.entropy, found.collision, found.special_mass, found.drift, found.diffusivity):
        where = values.flatten(3).isnan().any(-1) if values.ndim > 3 else values.isnan()
        assert where.nonzero().tolist() == [[1, 0, 4]]
    assert float(found.logsumexp[1, 0, 4]) == -math.inf and output[1, 0, 4].tolist() == [0, 0, 0, 0]
    whole = attention_statistics(query, key, Chain(30), within=(2,))
    torch.testing.assert_close(found.drift[1, 1], whole.drift[1, 1], rtol=1e-6, atol=1e-6)
    rows = attention_cosine(query, key, key, query, "rows", mask=allowed)
    assert rows.isnan().nonzero().tolist() == [[1, 0, 4]]
    assert attention_divergence(query, key, key, query, mask=allowed).isnan().nonzero().tolist() == [[1, 0, 4]]
    assert attention_cosine(query, key, key, query, mask=allowed).isfinite().all()


def test_leading_axes_broadcast_and_may_be_missing():
    query, key = random(2, 3, 4, 9, 5), random(4, 9, 5, seed=1)
    found = attention_statistics(query, key, Chain(9))
    assert found.entropy.shape == (2, 3, 4, 9) and found.drift.shape == (2, 3, 4, 9, 1)
    alone = attention_statistics(query[1, 2], key, Chain(9))
    torch.testing.assert_close(found.diffusivity[1, 2], alone.diffusivity, rtol=1e-6, atol=1e-6)
    padding = torch.arange(9) < torch.tensor([9, 6, 3])[:, None]
    masked = attention_statistics(query, key, mask=padding.expand(2, 3, 9))
    assert torch.equal(masked.allowed[1, :, 0, 0], torch.tensor([9, 6, 3]))
    assert torch.equal(masked.entropy, attention_statistics(query, key, mask=padding[None]).entropy)


def test_output_is_that_of_scaled_dot_product_attention():
    query, key, value = (random(2, 4, 200, 32, seed=s) for s in range(3))
    output, _ = attend_with_statistics(query, key, value, causal=True)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert float((output - plain).abs().max() / plain.abs().max()) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        again, found = attend_with_statistics(query, key, value, Chain(200), causal=True)
    assert torch.equal(again, output) and found.drift.dtype == torch.float32


def test_moments_on_the_lattice_are_those_of_the_explicit_map(attention):
    lattice = Grid(3, 4, special=1)
    maps = attention(tokens=13)
    found = statistics_of(maps, lattice)
    wanted = moments.attention_moments(maps, lattice)
    torch.testing.assert_close(vars(found.moments(lattice)), vars(wanted), rtol=1e-5, atol=1e-6)
    maps[0, 0, 2] = 0
    entropy = torch.special.entr(maps.double()).sum(-1)
    entropy[0, 0, 2] = math.nan
    again = statistics_of(maps)
    torch.testing.assert_close(again.entropy.double(), entropy, rtol=0, atol=1e-5, equal_nan=True)
    assert int(again.allowed[0, 0, 2]) == 0 and again.logsumexp.isnan().all()
    with pytest.raises(ValueError, match="hold no moments"):
        again.moments(lattice)


@pytest.mark.parametrize("name", ["none", "padding", "full", "causal", "causal window", "additive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cosine_and_divergence_are_those_of_the_explicit_maps(name, dtype, tiles):
    a, b, c, d = (random(2, h, 70, 8, seed=s, dtype=dtype) * 2 for s, h in enumerate((4, 2, 4, 4)))
    given, allowed, bias = masks(name, 2, 4, 70)
    one, other = explicit_logits(a, b, allowed, bias), explicit_logits(c, d, allowed, bias)
    logs = one.log_softmax(-1), other.log_softmax(-1)
    first, second = logs[0].exp(), logs[1].exp()
    exact = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    slack = (1e-5 if exact == FLOAT32 else 1e-12) + 8 * exact * float(one[allowed].abs().max())
    rows = torch.nn.functional.cosine_similarity(first, second, dim=-1)
    found = attention_cosine(a, b, c, d, over="rows", **given)
    torch.testing.assert_close(found.double(), rows, rtol=0, atol=slack)
    real = given["mask"][:, None, :, None] if name == "padding" else torch.ones(())
    first_map, second_map = (weights * real for weights in (first, second))
    wanted = torch.nn.functional.cosine_similarity(first_map.flatten(2), second_map.flatten(2), dim=-1)
    torch.testing.assert_close(attention_cosine(a, b, c, d, **given).double(), wanted, rtol=0, atol=slack)
    divergence = (first * (logs[0] - logs[1]).masked_fill(~allowed, 0)).sum(-1)
    torch.testing.assert_close(attention_divergence(a, b, c, d, **given).double(), divergence, rtol=0, atol=slack)


def test_an_attention_is_its_own_neighbour():
    query, key = 3 * random(2, 3, 40, 8), random(2, 3, 40, 8, seed=1)
    torch.testing.assert_close(attention_cosine(query, key, query, key), torch.ones(2, 3), rtol=0, atol=1e-6)
    assert float(attention_divergence(query, key, query, key).max()) == 0
    uniform = torch.zeros_like(query)
    to_uniform = attention_cosine(query, key, uniform, key, over="rows")
    found = attention_statistics(query, key)
    torch.testing.assert_close(to_uniform, (found.allowed * found.collision).rsqrt(), rtol=0, atol=1e-6)
    spread = attention_divergence(query, key, uniform, key)
    torch.testing.assert_close(spread, math.log(40) - found.entropy, rtol=0, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
def test_memory_grows_with_tokens_not_their_square():
    """The peak of a whole process: tensors that are small one by one may still scatter over the heap."""
    code = """
import re, torch
from pathlib import Path
from pdelens import Chain
from pdelens import attend_with_statistics
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
for tokens in (64, 1024, 2048, 4096, 8192):
    query, padding = torch.randn(1, tokens, 16), torch.ones(tokens, dtype=torch.bool)
    attend_with_statistics(query, query, query, Chain(tokens), mask=padding, causal=True)
    before = peak() if tokens == 64 else before
    print(tokens, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    sizes, kilobytes = torch.tensor([[float(n) for n in line.split()] for line in done.stdout.splitlines()[1:]]).T
    logs = torch.stack([sizes, kilobytes]).log()
    slope = float(torch.cov(logs)[0, 1] / logs[0].var())
    assert slope < 1.1, (sizes, kilobytes)
    assert kilobytes[-1] < 8192**2 * 4 / 1024 / 4


def test_gradients_are_not_lost_in_silence():
    query = random(1, 4, 3).requires_grad_()
    assert not attention_statistics(query, query).entropy.requires_grad
    with pytest.raises(ValueError, match=r"use torch\.no_grad\(\)"):
        attend_with_statistics(query, query, query)


Q, K = random(2, 4, 6, 8), random(2, 2, 6, 8, seed=1)
TALL = Q.clone()
TALL[0, 0, 0, 0] = math.nan


@pytest.mark.parametrize(
    "query, key, options, sentence",
    [
        (Q, K[..., :5], {}, r"head widths .* must agree"),
        (Q, K[:, :1].repeat(1, 3, 1, 1), {}, "4 heads must be a multiple of the key's 3"),
        (Q, K.to("meta"), {}, "a query on cpu and a key on meta"),
        (Q.long(), K, {}, r"a query of type torch.int64 .* use \.float"),
        (Q[0, 0], K, {}, r"\(\.\.\., heads, tokens, head_dim\) is wanted"),
        (Q, K[:, :, :0], {}, "at least one example, head, query and key"),
        (Q, torch.cat([K, K[:1]]), {}, "axes before their heads must agree or broadcast"),
        (TALL, K, {}, "the query holds values that are not finite"),
        (Q, K * 1e36, {"scale": 1e3}, "logits are not finite"),
        (Q, K, {"mask": torch.ones(2, 5, dtype=torch.bool)}, r"a mask of shape \(2, 5\) was given, but \(2, 6\)"),
        (Q, K, {"mask": torch.ones(6, dtype=torch.bool)}, r"a mask of shape \(6,\)"),
        (Q, K, {"mask": torch.ones(2, 6, dtype=torch.long)}, "a mask of type torch.int64"),
        (Q, K, {"mask": torch.full((2, 6), math.nan)}, "the mask holds NaN or inf"),
        (Q, K, {"mask": torch.ones(2, 6, dtype=torch.bool, device="meta")}, "a mask on meta"),
        (Q, K, {"window": 0}, "window=0"),
        (Q[:, :, :3], K, {"causal": True}, "3 queries and 6 keys were given with causal=True"),
        (Q, K, {"positions": Chain(7)}, "7 tokens, but there are 6 keys"),
        (Q, K, {"positions": torch.zeros(6)}, r"positions of shape \(6,\)"),
        (Q, K, {"positions": torch.zeros(3, 6, 1)}, r"\(6, 'dims'\) or \(2, 6, 'dims'\) is wanted"),
        (Q, K, {"positions": torch.full((6, 1), math.inf)}, "mark special tokens by NaN"),
        (Q[:, :, :3], K, {"positions": torch.zeros(6, 1)}, "both must be as many"),
        (Q, K, {"special": torch.zeros(6)}, "special of type torch.float32"),
        (Q, K, {"special": torch.zeros(5, dtype=torch.bool)}, r"special of shape \(5,\)"),
        (Q, K, {"within": (1,)}, r"within=\(1,\) was given: it needs positions"),
    ],
)
def test_bad_input_is_named(query, key, options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        attention_statistics(query, key, **options)


def test_bad_values_pairs_and_maps_are_named():
    with pytest.raises(ValueError, match=r"a value of shape \(2, 2, 5, 8\)"):
        attend_with_statistics(Q, K, K[:, :, :5])
    with pytest.raises(ValueError, match="a value on meta"):
        attend_with_statistics(Q, K, K.to("meta"))
    with pytest.raises(ValueError, match="over='all' was given: choose 'map' or 'rows'"):
        attention_cosine(Q, K, Q, K, over="all")
    with pytest.raises(ValueError, match="both need the same examples"):
        attention_divergence(Q, K, Q[:1], K[:1])
    with pytest.raises(ValueError, match="floating point of shape"):
        statistics_of(torch.ones(3, 3))
    with pytest.raises(ValueError, match="negative or not finite"):
        statistics_of(-torch.ones(1, 3, 3))
