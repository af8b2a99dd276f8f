"""What recording costs, as ratios in one run (`make bench`); nothing here passes or fails by the clock."""

import subprocess
import sys

import torch
from timing import compare_times

import pdelens
from companion.pretrained import models as pretrained
from pdelens import models
from pdelens.agreement import nulls


@torch.no_grad()
def test_capture_against_the_plain_forward_pass():
    vit = models.Transformer(models.Configuration()).eval()
    pictures = torch.randint(0, 256, (64, 28, 28), dtype=torch.uint8)
    encoder = pretrained.minilm().model
    words = {"input_ids": torch.randint(1000, 20000, (32, 64)), "attention_mask": torch.ones(32, 64, dtype=torch.long)}
    for name, model, run in (
        ("small ViT, 64 pictures", vit, lambda: vit(pictures)),
        ("MiniLM, 32 x 64 tokens", encoder, lambda: encoder(**words)),
    ):
        for attention in ("weights", None):

            def recorded(model=model, run=run, attention=attention):
                with pdelens.capture(model, attention) as recording:
                    run()
                return recording.flow()

            compare_times(f"capture ({attention}), {name}", recorded, run, "the plain forward pass", runs=7)


@torch.no_grad()
def test_compare_against_the_cosine_alone():
    maps = [torch.softmax(torch.randn(48, 12, 32, 32), -1) for _ in range(6)]
    flow = pdelens.Flow(attention=maps)
    given = nulls.attention_nulls(flow, flow)
    compare_times(
        "compare, 7 measures and 4 nulls",
        lambda: pdelens.compare(flow, flow, given, flow),
        lambda: [(a * a).sum() for a in maps],
        "one pass",
        runs=7,
    )


def test_import_against_torch():
    def run(module):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    compare_times("import pdelens", run("pdelens"), run("torch"), "import torch", runs=3)
