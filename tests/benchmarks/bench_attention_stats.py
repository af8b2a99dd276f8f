"""What statistics of attention cost, as ratios in one run (`make bench`); nothing here passes or fails by the clock."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timing import compare_times
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pdelens import Chain, Grid
from pdelens.attention import statistics
from pdelens.attention.pairs import attention_cosine


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def tensors(*shape):
    return (torch.randn(shape) for _ in range(3))


@pytest.mark.parametrize(
    "shape, lattice",
    [
        ((1, 8, 1024, 32), Chain(1024)),
        ((1, 8, 1024, 32), Grid(32, 32)),
        ((64, 4, 49, 16), Grid(7, 7)),
        ((1, 1, 8192, 64), Chain(8192)),
    ],
)
def test_statistics_against_plain_attention(shape, lattice):
    query, key, value = tensors(*shape)

    def plain():
        return scaled_dot_product_attention(query, key, value)

    def by_hand():
        weights = torch.softmax(query @ key.transpose(-1, -2) * shape[-1] ** -0.5, -1)
        return torch.special.entr(weights).sum(-1), weights @ value

    what = f"at {shape}, {lattice.dims} dimensions"
    for name, ours in (
        ("entropy and collision, no output", lambda: statistics.attention_statistics(query, key)),
        ("output, entropy and collision", lambda: statistics.attend_with_statistics(query, key, value)),
        ("with moments", lambda: statistics.attend_with_statistics(query, key, value, lattice)),
        (
            "with mass in 3 radii",
            lambda: statistics.attend_with_statistics(query, key, value, lattice, within=(1, 2, 4)),
        ),
        ("output and entropy from the stored map", by_hand),
    ):
        compare_times(f"{name}, {what}", ours, plain, "scaled_dot_product_attention", runs=9)


def test_a_model_with_statistics_against_without():
    """Six pre-norm layers of width 256, 8 heads, 1024 tokens: attention with statistics in place of the plain one."""
    width, heads, layers, lattice = 256, 8, 6, Chain(1024)
    sizes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    blocks = [(nn.LayerNorm(width), nn.LayerNorm(width), *(nn.Linear(*size) for size in sizes)) for _ in range(layers)]
    states = torch.randn(1, 1024, width)

    def forward(attend):
        u = states
        for norm, again, together, out, up, down in blocks:
            split = together(norm(u)).view(1, 1024, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            u = u + out(attend(*split).transpose(1, 2).flatten(2))
            u = u + down(nn.functional.gelu(up(again(u))))
        return u

    def plain():
        return forward(scaled_dot_product_attention)

    for name, goal, positions in (
        ("entropy and collision", 1.4, None),
        ("entropy, drift and diffusivity", 1.6, lattice),
    ):
        compare_times(
            f"a forward pass with {name} of every head",
            lambda positions=positions: forward(lambda *qkv: statistics.attend_with_statistics(*qkv, positions)[0]),
            plain,
            "the plain forward pass",
            goal,
            runs=9,
        )


def test_cosine_of_two_attentions_against_plain_attention():
    (a, b, value), (c, d, _) = tensors(1, 8, 1024, 32), tensors(1, 8, 1024, 32)
    compare_times(
        "cosine of two attentions at (1, 8, 1024, 32)",
        lambda: attention_cosine(a, b, c, d),
        lambda: (scaled_dot_product_attention(a, b, value), scaled_dot_product_attention(c, d, value)),
        "two of scaled_dot_product_attention",
        runs=9,
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
def test_memory():
    code = """
import re, sys, torch
from pathlib import Path
from pdelens import Chain, attend_with_statistics
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
query = torch.randn(1, int(sys.argv[1]), 64)
attend_with_statistics(query[:, :64], query[:, :64], query[:, :64], Chain(64))
before = peak()
attend_with_statistics(query, query, query, Chain(query.shape[1]), causal=True)
print(peak() - before)
"""
    for tokens in (1024, 4096, 16384):
        done = subprocess.run([sys.executable, "-c", code, str(tokens)], check=True, capture_output=True, text=True)
        print(f"\npeak memory beside the inputs, one head, {tokens} tokens: {int(done.stdout) / 1024:.1f} MiB")
