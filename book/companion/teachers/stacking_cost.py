"""What training teachers in one stack saves."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..data.splits import Examples
from ..jobs import Job, Run, provenance
from .recipes import SEEDS, Recipe, recipes_of
from .stack import train

STACKING = "stacking"
STEPS = {"smoke": 2, "book": 20, "full": 40}


@dataclass(frozen=True)
class StackingCost(Job):
    """Measures what five seeds as one stack cost, and how far each is from training alone.

    `ratio`: seconds of five seeds' steps over those of one seed; `difference`: the largest difference of any weight
    after those steps, in float32, and in float64. Random pictures; about five minutes on one CPU thread.
    """

    family: str = "image-patch4"
    name: str = STACKING  # type: ignore[assignment]

    def identity(self, run: Run) -> dict[str, Any]:
        """Return what is trained, and for how long."""
        recipes = self._recipes(run)
        return {
            "scale": run.scale,
            "steps": recipes[0].steps,
            "batch": recipes[0].batch,
            "jobs": len(recipes),
            "family": self.family,
        }

    def do(self, run: Run) -> dict[str, Any]:
        """Return cost and differences."""
        recipes, about = self._recipes(run), self.identity(run)
        generator = torch.Generator().manual_seed(0)
        size, classes = 4 * recipes[0].batch, recipes[0].configuration.outputs
        pictures = torch.randint(0, 256, (size, 28, 28), dtype=torch.uint8, generator=generator)
        data = Examples(pictures, torch.randint(0, classes, (size,), generator=generator))
        for dtype, label in ((torch.float32, "float32"), (torch.float64, "float64")):
            with TemporaryDirectory() as scratch:
                together, record = train(recipes, data, Path(scratch), device=run.device, dtype=dtype)
                alone, own = train(recipes[:1], data, Path(scratch), device=run.device, dtype=dtype)
            assert together is not None and alone is not None
            pairs = zip(together[0].parameters(), alone[0].parameters(), strict=True)
            about[f"difference_{label}"] = max(float((a - b).detach().abs().max()) for a, b in pairs)
            if dtype == torch.float32:
                about["ratio"] = record[0]["seconds"] / own[0]["seconds"]
        return about | provenance(run.device)

    def _recipes(self, run: Run) -> list[Recipe]:
        first = next(recipe for recipe in recipes_of(run.scale) if recipe.family == self.family)
        steps = STEPS[run.scale]
        return [replace(first, seed=seed, steps=steps, checkpoint_every=steps) for seed in range(SEEDS)]
