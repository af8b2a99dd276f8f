"""Who may see whom, from calls of attention that are told by hand."""

import pytest
import torch

from pdelens.attention.masks import HIDDEN, SELF_MASKS, sight_of, token_mask
from pdelens.attention.runs import Seen

REAL = torch.arange(6) < torch.tensor([[4], [6]])
PAST = torch.ones(6, 6, dtype=torch.bool).tril()


def call(cross=False, queries=6, keys=6, **given):
    return Seen((), None, cross, (2, 3, queries, keys), torch.device("cpu"), **given)


def maps(shape):
    return [torch.zeros(2, 3, *shape)]


def test_a_causal_call_that_is_told_of_padding_sees_the_past_of_its_real_keys():
    one = call(mask=REAL[:, None, None, :], causal=True)
    sight = sight_of([one], REAL, None, maps((6, 6)))
    assert sight.causal and sight.visible == () and sight.mask is not None and torch.equal(sight.mask, REAL)
    untold = sight_of([one], None, None, maps((6, 6)))
    (visible,) = untold.visible
    assert untold.causal and untold.mask is None
    assert torch.equal(visible, (REAL[:, None, None, :] & PAST).expand(2, 1, 6, 6))


@pytest.mark.parametrize("ahead", [None, 0, 1])
def test_calls_that_kept_their_masks_are_causal_where_no_weight_lies_ahead(ahead):
    weights = [torch.softmax(torch.randn(2, 3, 6, 6), -1).tril() for _ in range(2)]
    if ahead is not None:
        weights[ahead][1, 2, 3, 4] = 0.1
    calls = [call(known=False), call(known=False)]
    assert sight_of(calls, None, None, weights).causal is (ahead is None)
    assert not sight_of(calls, None, None).causal
    mixed = [call(known=False), call(causal=True)]
    assert sight_of(mixed, None, None, weights).causal is (ahead is None)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.float64])
def test_a_triangle_is_causal_whatever_its_type_and_however_it_hides(kind):
    mask = PAST if kind == torch.bool else torch.zeros(6, 6, dtype=kind).masked_fill(~PAST, HIDDEN)
    sight = sight_of([call(mask=mask)] * 2, None, None, maps((6, 6)) * 2)
    assert sight.causal and sight.visible == ()
    if kind != torch.bool:
        bias = torch.zeros(6, 6, dtype=kind).masked_fill(~PAST, HIDDEN + 1)
        assert not sight_of([call(mask=bias)], None, None, maps((6, 6))).causal


def test_one_layer_that_looks_ahead_is_enough():
    for other in (call(), call(mask=torch.ones(6, 6, dtype=torch.bool))):
        sight = sight_of([call(causal=True), other], None, None, maps((6, 6)) * 2)
        assert not sight.causal and len(sight.visible) == 2
        assert torch.equal(sight.visible[0], PAST.expand(2, 1, 6, 6)) and bool(sight.visible[1].all())
    assert sight_of([call(causal=True), call(causal=True)], None, None).causal


def test_what_only_padded_queries_see_ahead_does_not_count():
    """Rows of padding look anywhere; the real ones are causal."""
    mask = (PAST & REAL[:, None, None, :]) | ~REAL[:, None, :, None]
    sight = sight_of([call(mask=mask)], REAL, None, maps((6, 6)))
    assert sight.causal and sight.visible == () and sight.mask is not None and torch.equal(sight.mask, REAL)


def test_a_call_of_one_key_is_not_called_causal():
    assert not sight_of([call(queries=1, keys=1, causal=True)], None, None).causal
    assert not sight_of([call(queries=1, keys=1)], None, None).causal


def test_padding_is_read_from_the_calls_where_modules_were_told_nothing():
    sight = sight_of([call(mask=REAL[:, None, None, :])] * 2, None, None, maps((6, 6)) * 2)
    assert sight.mask is not None and torch.equal(sight.mask, REAL) and not sight.causal and sight.visible == ()
    # A key that one layer sees is real.
    both = [call(mask=REAL[:, None, None, :]), call(mask=torch.ones(2, 1, 1, 6, dtype=torch.bool))]
    assert sight_of(both, None, None).mask is None
    # Heads, too.
    heads = torch.stack([REAL, REAL.roll(1, 1), REAL], 1)[:, :, None, :].expand(2, 3, 6, 6)
    sight = sight_of([call(mask=heads)], None, None, maps((6, 6)))
    wanted = REAL | REAL.roll(1, 1)
    assert sight.mask is not None and torch.equal(sight.mask, wanted)
    assert torch.equal(sight.visible[0], heads & wanted[:, None, None, :])


def test_cross_attention_has_the_rows_of_one_sequence_and_the_keys_of_the_other():
    rows, keys = torch.arange(4) < torch.tensor([[4], [2]]), REAL
    one = call(True, 4, 6, mask=keys[:, None, None, :])
    sight = sight_of([one], rows, keys, maps((4, 6)))
    assert sight.mask is not None and torch.equal(sight.mask, rows)
    assert sight.key_mask is not None and torch.equal(sight.key_mask, keys)
    assert not sight.causal and sight.visible == ()
    # Told by the call alone.
    alone = sight_of([call(True, 4, 6, real=keys, mask=keys[:, None, None, :])], None, None, maps((4, 6)))
    assert alone.mask is None and alone.key_mask is not None and torch.equal(alone.key_mask, keys)
    # Not heeded: every key is looked at.
    deaf = sight_of([call(True, 4, 6)], rows, keys, maps((4, 6)))
    assert deaf.key_mask is None and deaf.visible == ()


def test_keys_that_a_module_added_are_seen_by_all():
    """`add_zero_attn` puts a key behind the sequence's own."""
    sight = sight_of([call(keys=7, real=torch.ones(2, 6, dtype=torch.bool))], None, None, maps((6, 7)))
    assert not sight.causal and torch.equal(sight.visible[0], torch.ones(2, 1, 6, 7, dtype=torch.bool))


def test_one_key_ahead_is_ahead():
    near = torch.ones(6, 6, dtype=torch.bool).tril(1)
    sight = sight_of([call(mask=near)], None, None, maps((6, 6)))
    assert not sight.causal and torch.equal(sight.visible[0], near.expand(2, 1, 6, 6))
    padded = sight_of([call(mask=near & REAL[:, None, None, :])], None, None, maps((6, 6)))
    assert padded.mask is not None and torch.equal(padded.mask, REAL) and not padded.causal
    weights = torch.zeros(2, 3, 6, 6)
    weights[0, 0, 2, 3] = 1e-3
    assert not sight_of([call(known=False)], None, None, [weights]).causal


def test_padding_masks_say_what_is_hidden_and_others_what_is_shown():
    for name, given in (
        ("src_key_padding_mask", ~REAL),
        ("src_key_padding_mask", torch.zeros(2, 6).masked_fill(~REAL, float("-inf"))),
        ("tgt_key_padding_mask", (~REAL).long()),
        ("attention_mask", REAL),
        ("attention_mask", REAL.long()),
        ("attention_mask", REAL.float()),
        ("mask", torch.zeros(2, 6).masked_fill(~REAL, -1e4)),
    ):
        found = token_mask({name: given}, {name: None}, SELF_MASKS, None)  # type: ignore[dict-item]
        assert found is not None and found.dtype == torch.bool and torch.equal(found, REAL), name
    before = torch.ones(2, 6, dtype=torch.bool)
    known = {"attention_mask": None}
    for given, wanted in (
        ({}, before),
        ({"attention_mask": None}, None),
        ({"attention_mask": REAL[:, None, None, :]}, before),
        ({"attention_mask": [[1, 0]]}, before),
    ):
        assert token_mask(given, known, SELF_MASKS, before) is wanted  # type: ignore[arg-type]
    assert token_mask({"attention_mask": REAL}, {}, SELF_MASKS, before) is before
