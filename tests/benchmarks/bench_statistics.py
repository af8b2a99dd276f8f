"""What the statistics of every head cost on a whole model, beside what others do for them (`make bench`).

Ratios in one run, on one thread; nothing here passes or fails by the clock. The peers live in an
environment of their own: `python3 -m venv _build/peers`, a `.pth` file that names the book's
site-packages, then `_build/peers/bin/pip install transformer-lens==4.3.0 nnsight==0.8.1`.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peers import TOKENS, WORDS, entropy, plain_model
from timing import compare_times

from pdelens import Chain, capture

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "_build/peers/bin/python"


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def test_entropy_of_every_head_against_a_plain_forward():
    model, eager, ids = plain_model(), plain_model("eager"), torch.randint(0, WORDS, (1, TOKENS))

    def plain():
        model(input_ids=ids, use_cache=False)

    def recorded(kind, **options):
        def run():
            with capture(model, kind, **options) as recording:
                plain()
            return recording

        return run

    def output_attentions():
        return [entropy(maps) for maps in eager(input_ids=ids, use_cache=False, output_attentions=True).attentions]

    for what, run, goal in (
        ("states", recorded(None), 1.05),
        ("entropy and collision", recorded("statistics"), 1.4),
        ("entropy, drift and diffusivity", recorded("statistics", positions=Chain(TOKENS)), 1.6),
        ("entropy by output_attentions (eager)", output_attentions, None),
    ):
        compare_times(f"{what}, 6 layers x 256, {TOKENS} tokens", run, plain, "a plain sdpa forward", goal, runs=9)


@pytest.mark.parametrize("peer", ["transformer_lens", "nnsight"])
def test_the_same_by_a_peer(peer):
    if not PEERS.exists():
        pytest.skip(f"{peer} is not installed: see the head of {Path(__file__).name}")
    command = [PEERS, Path(__file__).with_name("peers.py"), peer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"{peer} does not run here: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\nentropy by {peer}: {found['ratio']:.2f} x a plain sdpa forward ({found['seconds'] * 1e3:.0f} ms)")


def peak(mode, tokens, model="small"):
    """Return how much memory (bytes) one forward pass takes at its peak, in a fresh process on Linux."""
    done = subprocess.run([sys.executable, __file__, mode, str(tokens), model], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_extra_memory_grows_with_tokens_not_with_their_square():
    lengths = (256, 512, 1024, 2048, 4096, 8192)
    extra = [max(peak("statistics", n) - peak("plain", n), 1) for n in lengths]
    x = torch.tensor([math.log(n) for n in lengths[2:]])
    y = torch.tensor([math.log(e) for e in extra[2:]])
    exponent = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    megabytes = ", ".join(f"{n}: {e / 2**20:.0f} MiB" for n, e in zip(lengths, extra, strict=True))
    print(f"\nextra memory of statistics over a plain forward: {megabytes}; exponent {exponent:.2f} (goal 1.1)")


def test_smollm2_at_4096_tokens():
    extra = peak("statistics", 4096, "smollm2") - peak("plain", 4096, "smollm2")
    print(f"\nSmolLM2, 4,096 tokens, 30 layers: {extra / 2**30:.2f} GiB more than a plain forward (goal: under 3)")


def run_once(mode, tokens, model):
    """Run one forward pass and print what it took at its peak; the program behind `peak`."""
    torch.manual_seed(0)
    torch.set_num_threads(2 if model == "smollm2" else 1)
    if model == "smollm2":
        from companion.pretrained import models

        found = models.smollm2().model.model
    else:
        found = plain_model(positions=tokens)
    ids = torch.randint(0, WORDS, (1, tokens))
    with torch.no_grad():
        found(input_ids=ids[:, :8], use_cache=False)  # what the first call of all allocates is not the pass's own
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = memory("VmRSS")
        if mode == "plain":
            found(input_ids=ids, use_cache=False)
        else:
            with capture(found, "statistics", states=False, positions=Chain(tokens)) as recording:
                found(input_ids=ids, use_cache=False)
            assert recording.statistics()[-1].entropy.shape[-1] == tokens
    print(memory("VmHWM") - before)


def memory(name):
    """Return one of this process's memory figures in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    run_once(sys.argv[1], int(sys.argv[2]), sys.argv[3])
