"""What stacking five seeds costs, as ratios in one run (`make bench`); nothing here passes or fails by the clock.

On a CPU (one thread, as each process of `make train` has) a stack costs what its arithmetic costs: five
times one seed, unless one seed is so small that Python and not arithmetic takes its time. On a GPU it
is the launching of kernels that a stack shares.
"""

import dataclasses

import pytest
import torch
from timing import compare_times

from companion.teachers import recipes
from companion.teachers import stack as stacked

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def stepper(recipes):
    """Return a function that takes one optimiser step of a stack."""
    stack = stacked.Stack(recipes, DEVICE)
    optimizer = stack.optimizer()
    about = recipes[0].configuration
    shape = (about.length,) if about.vocabulary else (about.side, about.side)
    kind = {"dtype": torch.long} if about.vocabulary else {"dtype": torch.uint8}
    inputs = torch.randint(2, 250, (len(recipes), recipes[0].batch, *shape), **kind).to(DEVICE)
    labels = torch.randint(0, 2, inputs.shape[:2]).to(DEVICE)

    def step():
        losses, _ = stacked._losses(stack, inputs, labels)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        stack.clip(1.0)
        optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return step


@pytest.mark.parametrize(
    ("name", "batch"),
    [("image-patch4", 128), ("text-causal", 128), ("image-patch7", 128), ("image-patch7", 16), ("image-patch7", 2)],
)
def test_five_seeds_in_a_stack_against_one(name, batch):
    seeds = [dataclasses.replace(recipes.recipe_named(f"{name}-seed{seed}"), batch=batch) for seed in range(5)]
    five, one = stepper(seeds), stepper(seeds[:1])
    goal = 1.3 if DEVICE == "cuda" else 2.5
    compare_times(f"5 seeds of {name}, batch {batch}, {DEVICE}", five, one, "one seed", goal, runs=5)
