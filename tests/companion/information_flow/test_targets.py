"""Targets: patches and pieces as codes, and readers at their distance."""

import numpy as np
import pytest
import torch

from companion.information_flow import targets as asked
from pdelens.lattice import Chain, Grid


def test_patches_are_the_squares_of_a_picture_row_by_row():
    pictures = torch.arange(2 * 36).reshape(2, 6, 6)
    found = asked.patches(pictures, 2)
    assert found.shape == (2, 9, 4)
    for row in range(3):
        for column in range(3):
            square = pictures[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert found[1, 3 * row + column].tolist() == square.flatten().tolist()


def test_codes_are_the_nearest_centres_and_k_means_finds_separate_kinds():
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 3, (40, 4), generator=generator)
    flat = 80.0 * kinds[..., None] + torch.rand(40, 4, 4, generator=generator)  # (pictures, patches, pixels)
    pictures = flat.reshape(40, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(40, 4, 4)
    known = asked.centres(pictures, 2, 3)
    codes = asked.patch_codes(pictures, known, 2)
    assert sorted(known.mean(1).round().tolist()) == pytest.approx([0.5, 80.5, 160.5], abs=0.6)
    for kind in range(3):
        assert len(codes[kinds == kind].unique()) == 1
    assert len(codes.unique()) == 3


def test_frequent_pieces_are_counted_without_padding():
    tokens = torch.tensor([[5, 6, 6, 0, 0, 0], [7, 7, 7, 5, 9, 0]])
    found = asked.frequent_pieces(tokens, tokens != 0, 3)
    assert found.tolist() == [7, 5, 6], "of equals the lower number"
    codes = asked.piece_codes(tokens, tokens != 0, found)
    assert codes.tolist() == [[1, 2, 2, -1, -1, -1], [0, 0, 0, 1, -1, -1]]
    assert asked.piece_codes(tokens, torch.zeros_like(tokens), found).unique().tolist() == [-1], "padding is none"


def test_where_tokens_see_the_past_alone_later_ones_are_read_and_the_one_before_for_what_is_next():
    codes = torch.randint(0, 3, (30, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(codes, dtype=torch.bool)
    mask[:, 0] = False
    found = asked.drawn(codes, mask, Chain(12, causal=True), 20, 3, distances=(0, 1, 4, -1))
    own = found.readers[0]
    for distance in (1, 4, -1):
        assert (found.readers[distance] - own).tolist() == [distance] * 60
    assert int(own.min()) == 2, "before it stands a token that may be read"
    assert asked.target_name(-1) == "next"


@pytest.mark.parametrize("lattice", [Grid(7, 7), Chain(12)])
def test_readers_lie_at_their_distance_along_one_axis_and_are_real(lattice):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-1, 3, (30, lattice.tokens), generator=generator)
    mask = torch.ones_like(codes, dtype=torch.bool)
    mask[::2, lattice.tokens - 3 :] = False
    found = asked.drawn(codes, mask, lattice, 20, 2)
    assert len(found) == 40 and found.examples.tolist() == sorted(found.examples.tolist())
    places = lattice.positions().reshape(lattice.tokens, -1).numpy()
    for row, example in enumerate(found.examples.tolist()):
        token = int(found.readers[0][row])
        assert int(found.codes[row]) == int(codes[example, token]) >= 0
        for distance, readers in found.readers.items():
            apart = np.abs(places[int(readers[row])] - places[token])
            assert sorted(apart)[-1] == distance == apart.sum() and mask[example, readers[row]]
    again = [found.readers[0][2 * e].item() != found.readers[0][2 * e + 1].item() for e in range(20)]
    assert all(again), "no target comes twice"
    with pytest.raises(ValueError, match="31 examples of 2 targets were asked for, but"):
        asked.drawn(codes, mask, lattice, 31, 2)


def test_states_are_those_of_the_readers_batch_by_batch():
    found = asked.drawn(torch.zeros(6, 9, dtype=torch.long), torch.ones(6, 9), Chain(9), 6, 2)
    states = [torch.randn(6, 9, 3, generator=torch.Generator().manual_seed(d)) for d in range(2)]
    whole = found.states(states)
    for d, readers in found.readers.items():
        for row, (example, place) in enumerate(zip(found.examples, readers, strict=True)):
            torch.testing.assert_close(whole[d][1, row], states[1][example, place])
    parts = [found.states([u[first : first + 4] for u in states], first) for first in (0, 4)]
    for d in whole:
        torch.testing.assert_close(torch.cat([part[d] for part in parts], 1), whole[d])
