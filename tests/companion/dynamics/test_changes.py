"""Changes of inputs: how large, where, and how far they grow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import changes, movers


@pytest.fixture(scope="module")
def at():
    tiny = Tiny(teacher(0), 5)
    mover = movers.blocks_of(tiny.teacher)
    return mover, changes.point_of(mover, tiny.inputs)


MASK = torch.tensor([[True, True, True, False], [True, True, True, True]])


@pytest.mark.parametrize("one", [False, True])
def test_a_change_is_relative_to_the_states_root_mean_square(at, one):
    mover, point = at
    token = torch.tensor([0, 1, 2, 3, 0]) if one else None
    change = changes.sized(mover, point, changes.drawn_noise(mover, point, 0, token), 0.1, one)
    for example in range(5):
        rms = point.u[example].square().mean().sqrt()
        changed = change[example].abs().sum(-1) > 0
        assert changed.tolist() == [token is None or place == token[example] for place in range(4)]
        assert float(change[example][changed].square().mean().sqrt()) == pytest.approx(0.1 * float(rms), rel=1e-5)


def test_growth_is_the_change_at_each_depth_over_that_at_the_start(at):
    mover, point = at
    change = 0.3 * torch.randn_like(point.u)
    found = changes.grown(mover, point, change)
    u = (point.u + change)[2]
    for depth in range(7):
        wanted = np.linalg.norm((u - point.states[depth][2]).numpy()) / np.linalg.norm(change[2].numpy())
        assert float(found.growth[2, depth]) == pytest.approx(wanted, rel=1e-4)
        if depth < 6:
            u = mover.model.blocks[depth](u[None], None)[0]
    torch.testing.assert_close(found.last[2], u)


def test_padding_counts_for_nothing():
    change = torch.ones(2, 4, 3)
    assert changes.length(change, MASK).tolist() == pytest.approx([3.0, 12**0.5])


def test_pictures_are_moved_by_one_pixel_and_black_comes_in():
    pictures = torch.randint(1, 255, (2, 5, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    down, up, right, left = (one.numpy() for one in changes.shifted(pictures))
    own = pictures.numpy()
    np.testing.assert_array_equal(down[:, 1:], own[:, :-1])
    np.testing.assert_array_equal(up[:, :-1], own[:, 1:])
    np.testing.assert_array_equal(right[:, :, 1:], own[:, :, :-1])
    np.testing.assert_array_equal(left[:, :, :-1], own[:, :, 1:])
    for edge in (down[:, 0], up[:, -1], right[:, :, 0], left[:, :, -1]):
        assert not edge.any()


def test_a_swap_exchanges_two_neighbours_that_differ():
    tokens = torch.tensor([[5, 5, 6, 0], [7, 8, 8, 8]])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        found = changes.swapped(tokens, MASK, generator)
        assert found.tolist() == [[5, 6, 5, 0], [8, 7, 8, 8]]
    with pytest.raises(ValueError, match="nothing to swap"):
        changes.swapped(torch.tensor([[5, 5, 5, 6], [1, 2, 3, 4]]), MASK, generator)


def test_a_replacement_is_one_real_piece_that_occurs_elsewhere():
    tokens, generator = torch.tensor([[5, 5, 6, 0], [7, 8, 9, 4]]), torch.Generator().manual_seed(0)
    places = set()
    for _ in range(60):
        found = changes.replaced(tokens, MASK, generator)
        differ = found != tokens
        assert differ.sum(1).tolist() == [1, 1] and bool(MASK[differ].all()) and 0 not in found[differ]
        places |= set(map(tuple, differ.nonzero().tolist()))
    assert len(places) == 7


def test_natural_changes_are_shifts_of_pictures_swaps_and_replacements_of_texts():
    pictures = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert {name: len(each) for name, each in changes.natural(pictures, 3).items()} == {"shift": 4}
    texts = {"inputs": torch.tensor([[5, 6, 7, 0], [7, 8, 9, 4]]), "mask": MASK}
    found = changes.natural(texts, 3)
    assert {name: len(each) for name, each in found.items()} == {"swap": 3, "replacement": 3}
    again = changes.natural(texts, 3)
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(found["swap"], again["swap"], strict=True))


def test_fixed_steps_are_held_against_an_adaptive_solver():
    tiny = Tiny(teacher(0), 5)
    field = tiny.equations["three laws"]
    errors = []
    for substeps in (1, 4):
        mover = movers.solution_of(tiny.teacher, field, substeps)
        errors.append(changes.solver_error(mover, changes.point_of(mover, tiny.inputs)))
    assert errors[0] < 0.05 and errors[1] < 0.01


def test_the_solvers_error_is_the_median_examples(at):
    mover, point = at

    def adaptive(u, padding):
        # Twice the growth for the first example, a hundredth more for all others.
        own, moved = u.split(5)
        factor = torch.tensor([2.0, 1.01, 1.01, 1.01, 1.01]).view(-1, 1, 1)
        last, beyond = mover.run(own, padding)[-1], mover.run(moved, padding)[-1]
        return torch.cat([last, last + factor * (beyond - last)])

    found = changes.solver_error(replace(mover, adaptive=adaptive), point)
    assert found == pytest.approx(1 - 1 / 1.01, rel=1e-2)
