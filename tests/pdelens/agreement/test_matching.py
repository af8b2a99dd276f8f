import itertools

import torch

from pdelens import Flow
from pdelens.agreement import matching, measures


def test_heads_are_matched_back(attention):
    flow = Flow(attention=[attention(heads=5, seed=layer) for layer in range(3)])
    orders = [torch.randperm(5, generator=torch.Generator().manual_seed(layer)) for layer in range(3)]
    mixed = flow.permute_heads(orders)
    found = matching.match_heads(mixed, flow)
    back = mixed.permute_heads(found)
    assert all(torch.equal(a, b) for a, b in zip(back.attention, flow.attention, strict=True))


def test_heads_are_aligned_along_depth(attention):
    first = attention(heads=5)
    orders = [torch.randperm(5, generator=torch.Generator().manual_seed(layer)) for layer in range(4)]
    layers = [first] + [0.9 * first[:, order] + 0.1 / 7 for order in orders]
    aligned = Flow(attention=layers).permute_heads(matching.align_heads(Flow(attention=layers)))
    for layer in aligned.attention[1:]:
        assert float(measures.cosine(layer, first).min()) > 0.99


def test_heads_are_matched_by_the_best_sum_of_centred_cosines(attention):
    ours, theirs = Flow(attention=[attention(heads=4, seed=1)]), Flow(attention=[attention(heads=4, seed=2)])
    middle = theirs.attention[0].mean((0, 1))

    def agreement(order):
        turned = ours.permute_heads([torch.tensor(order)]).attention[0]
        return float(measures.centred_cosine(turned, theirs.attention[0], middle).mean(0).sum())

    best = max(itertools.permutations(range(4)), key=agreement)
    assert tuple(matching.match_heads(ours, theirs)[0].tolist()) == best != (0, 1, 2, 3)
    both = Flow(attention=[theirs.attention[0], ours.attention[0]])
    first, second = matching.align_heads(both)
    assert first.tolist() == [0, 1, 2, 3] and tuple(second.tolist()) == best
