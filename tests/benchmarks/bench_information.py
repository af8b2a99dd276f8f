"""What KSG costs beside an implementation like NPEET's (`make bench`).

Ratios in one run, on one thread; nothing here passes or fails by the clock. The peer is written here: what
NPEET does, by scikit-learn's k-d tree, which is its faster form.
"""

import time

import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.neighbors import KDTree
from timing import compare_times

from pdelens.information.ksg import ksg

SAMPLES, NEIGHBOURS = 5000, 10


@pytest.fixture(autouse=True)
def alone():
    with torch.no_grad():
        yield


def correlated(dims, samples=SAMPLES):
    """Return x and y whose columns correlate by 0.8 in pairs."""
    x, noise = torch.randn(2, samples, dims, generator=torch.Generator().manual_seed(dims), dtype=torch.float64)
    return x, 0.8 * x + 0.6 * noise


def npeet_style(x, y):
    """Estimate by one tree for the joint neighbours and one for each side's counts."""
    both = np.hstack([x, y])
    radius = np.nextafter(KDTree(both, metric="chebyshev").query(both, NEIGHBOURS + 1)[0][:, -1], 0)
    counts = [KDTree(part, metric="chebyshev").query_radius(part, radius, count_only=True) for part in (x, y)]
    return digamma(NEIGHBOURS) + digamma(len(x)) - sum(digamma(count).mean() for count in counts)


@pytest.mark.parametrize(("dims", "goal"), [(1, 1.0), (2, 1.0), (5, 1.0), (25, 0.65)])
def test_ksg_against_trees(dims, goal):
    x, y = correlated(dims)
    arrays = x.numpy(), y.numpy()
    assert ksg(x, y) == pytest.approx(npeet_style(*arrays), abs=1e-10)
    what = f"KSG, {SAMPLES:,} samples of {dims} + {dims} columns"
    compare_times(what, lambda: ksg(x, y), lambda: npeet_style(*arrays), "NPEET's way", goal, runs=9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("samples", "goal"), [(SAMPLES, "50 ms"), (100_000, "a tenth of samples^2 doubles")])
def test_ksg_on_a_gpu(samples, goal):
    x, y = (part.cuda() for part in correlated(5, samples))
    ksg(x, y)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    ksg(x, y)
    seconds, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated()
    assert peak < max(2**30, 0.1 * 8 * samples**2)
    print(f"\n{samples:,} samples of 5 + 5: {seconds * 1e3:.0f} ms, peak {peak / 2**20:.0f} MiB (goal {goal})")
