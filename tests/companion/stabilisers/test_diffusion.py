"""Diffusion at every place: against matrix exponentials and a plain loop, with padding, in disorder, in a stack."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from chain_graph import path_laplacian

from companion.data.splits import Examples
from companion.stabilisers.batch import Plan, alone, train
from companion.stabilisers.diffusion import AFTER, BEFORE, Diffusion, commutator, lattice_of, roughness
from companion.stabilisers.switches import Switched, Switches
from pdelens.models import Configuration, Transformer

PICTURES = Configuration(width=8, heads=2, layers=2, patch=7)
TEXTS = Configuration(width=8, heads=2, layers=2, vocabulary=30, length=5, outputs=2)
RANDOM = torch.Generator().manual_seed(1)
SEEN = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=RANDOM)


def switched(place, amount=0.8, shape=PICTURES, **more):
    return Switched(Switches("plain", "pre", shape, diffusion=Diffusion(place, amount, **more)), 0).eval()


def test_kernels_of_texts_are_those_of_their_own_length():
    found = Diffusion("1", 0.8).kernels(TEXTS)
    for count in range(6):
        np.testing.assert_allclose(
            found[count, :count, :count], scipy.linalg.expm(0.8 * path_laplacian(count)), atol=1e-6
        )
        np.testing.assert_allclose(found[count, count:, count:], np.eye(5 - count), atol=1e-6)


def test_kernels_of_pictures_are_those_of_rows_and_columns():
    grid = np.kron(path_laplacian(4), np.eye(4)) + np.kron(np.eye(4), path_laplacian(4))
    np.testing.assert_allclose(Diffusion("0", 0.5).kernels(PICTURES)[-1], scipy.linalg.expm(0.5 * grid), atol=1e-6)
    # In every layer a part.
    np.testing.assert_allclose(Diffusion(AFTER, 0.5).kernels(PICTURES)[-1], scipy.linalg.expm(0.25 * grid), atol=1e-6)


def test_disorder_mixes_as_much_among_others():
    plain, other = (Diffusion("0", 0.5, disorder).kernels(TEXTS) for disorder in (0, 1))
    for count in (3, 5):
        own, mixed = (np.linalg.eigvalsh(one[count].double()) for one in (plain, other))
        np.testing.assert_allclose(own, mixed, atol=1e-6)
        np.testing.assert_allclose(other[count].sum(-1), np.ones(5), atol=1e-6)
    assert not torch.allclose(plain[5], other[5]) and torch.equal(other, Diffusion("0", 0.5, 1).kernels(TEXTS))
    assert not torch.allclose(other[5], Diffusion("0", 0.5, 2).kernels(TEXTS)[5])
    np.testing.assert_allclose(other[3, 3:, 3:], np.eye(2), atol=1e-6)


@pytest.mark.parametrize("place", ["0", "1", "2", BEFORE, AFTER])
def test_every_place_against_a_plain_loop(place):
    model = switched(place)
    plain = Transformer(PICTURES, 0)
    part = 0.8 / 2 if place in (BEFORE, AFTER) else 0.8
    grid = np.kron(path_laplacian(4), np.eye(4)) + np.kron(np.eye(4), path_laplacian(4))
    kernel = torch.from_numpy(scipy.linalg.expm(part * grid)).float()
    with torch.no_grad():
        u = plain.embedding(SEEN)
        u = kernel @ u if place == "0" else u
        for depth, block in enumerate(plain.blocks, 1):
            u = kernel @ u if place == BEFORE else u
            u = u + block.attention(block.norm_attention(u), None)
            u = kernel @ u if place == AFTER else u
            u = u + block.mlp(block.norm_mlp(u))
            u = kernel @ u if place == str(depth) else u
        assert torch.allclose(model(SEEN), plain.readout(u), atol=1e-5)
        assert torch.allclose(model.states(SEEN)[-1], u, atol=1e-5)


def test_no_amount_changes_nothing_and_padding_counts_for_nothing():
    with torch.no_grad():
        assert torch.allclose(switched(BEFORE, 0.0)(SEEN), Transformer(PICTURES, 0)(SEEN), atol=1e-5)
        words = torch.randint(1, 30, (2, 5), generator=RANDOM)
        real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]).bool()
        model = switched(AFTER, shape=TEXTS)
        assert torch.allclose(model(words, real), model(words[:, :3], real[:, :3]), atol=1e-5)
        changed = words.clone()
        changed[:, 3:] = 7
        assert torch.allclose(model(words, real), model(changed, real), atol=1e-6)


def test_in_a_stack_as_alone():
    plan = Plan(Switches("plain", "pre", TEXTS, diffusion=Diffusion("1", 0.6)), (0, 1), (1e-3, 1e-2), steps=4, batch=4)
    words = torch.randint(1, 30, (20, 5), generator=RANDOM)
    words[::3, 3:] = 0
    data = Examples(words, torch.randint(0, 2, (20,), generator=RANDOM))
    together, single = train(plan, data)[0], train(alone(plan, 1, 1e-2), data)[0]
    with torch.no_grad():
        assert torch.allclose(
            together.model(3)(words[:4], words[:4] != 0), single.model(0)(words[:4], words[:4] != 0), atol=1e-5
        )


def test_commutators():
    kernel = torch.from_numpy(scipy.linalg.expm(0.5 * path_laplacian(4)))
    maps = torch.softmax(torch.randn(2, 3, 4, 4, generator=RANDOM, dtype=torch.float64), -1)
    found = commutator(maps, kernel)
    for example in range(2):
        for head in range(3):
            a, k = maps[example, head].numpy(), kernel.numpy()
            wanted = np.linalg.norm(a @ k - k @ a) / (np.linalg.norm(a @ k) + np.linalg.norm(k @ a))
            assert float(found[example, head]) == pytest.approx(wanted)
    assert float(commutator((kernel @ kernel)[None, None], kernel).max()) < 1e-12
    assert torch.allclose(commutator(maps, kernel.expand(2, -1, -1)), found)


def test_roughness_is_an_energy_over_edges():
    lattice = lattice_of(TEXTS)
    u = torch.randn(2, 5, 8, generator=RANDOM, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    found = roughness(u, lattice, mask)
    for example, count in enumerate((5, 3)):
        v = u[example, :count]
        energy = sum(float((a - b).square().sum()) for a, b in pairwise(v))
        assert float(found[example]) == pytest.approx(energy / float(v.square().sum()))
    waves = torch.cos(math.pi * (torch.arange(5, dtype=torch.float64) + 0.5) / 5)[None, :, None]
    assert float(roughness(waves, lattice)) == pytest.approx(4 * math.sin(math.pi / 10) ** 2)


def test_unknown_places_are_named():
    with pytest.raises(ValueError, match="place '3' is unknown: choose from before, after, 0, 1, 2"):
        Diffusion("3", 1.0).kernels(PICTURES)
