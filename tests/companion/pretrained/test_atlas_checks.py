import pytest
import torch

from companion.pretrained import atlas_checks
from pdelens import Chain
from pdelens.attention.statistics import attention_statistics

LATTICE = Chain(8, special=1)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layers():
    """Statistics read off queries and keys, and the maps of the same, of two layers."""
    found, maps = [], []
    for seed in (1, 2):
        queries, keys = random(3, 2, 9, 4, seed=seed), random(3, 2, 9, 4, seed=seed + 10)
        found.append(attention_statistics(queries, keys, positions=LATTICE))
        maps.append(torch.softmax(queries @ keys.mT / 2, -1))
    return found, maps


def test_the_same_maps_leave_no_gap(layers):
    gaps = atlas_checks.largest_gaps(*layers, LATTICE)
    assert gaps.keys() == {"entropy", "drift", "diffusivity", "special mass"}
    assert 0 <= max(gaps.values()) < 1e-4


def test_the_gap_is_the_largest_over_layers_heads_and_queries(layers):
    found, maps = layers
    own, other = maps[1][2, 1, 5].double(), torch.eye(9).double()[3]
    maps[1][2, 1, 5] = other.float()  # the third place looks at the first that follows [CLS] and two
    gaps = atlas_checks.largest_gaps(found, maps, LATTICE)
    place = torch.arange(8.0).double()
    inner = own[1:] / own[1:].sum()
    mean = float(inner @ place)
    spread = float(inner @ (place - mean) ** 2) / 2
    expected = {
        "entropy": float(-(own * own.log()).sum()),
        "drift": abs(mean - 2),
        "diffusivity": spread,
        "special mass": float(own[0]),
    }
    assert gaps == pytest.approx(expected, abs=1e-4)


def test_a_row_that_lands_on_special_tokens_has_no_displacement_to_compare(layers):
    found, maps = layers
    maps[0][0, 0, 4] = torch.eye(9)[0]
    gaps = atlas_checks.largest_gaps(found, maps, LATTICE)
    assert gaps["special mass"] > 0.1 and gaps["drift"] < 1e-4 and gaps["diffusivity"] < 1e-4
