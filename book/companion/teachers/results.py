"""What came out of training the teachers: histories, plain methods, the gain of stacking."""

import json
from typing import Any

from ..paths import data_file

# What is known of all training, of teachers whose weights are not committed too (in `data/`).
RECORDS = "training.json"


def histories() -> dict[str, dict[str, Any]]:
    """Return what is known of every teacher that was trained, by name: what made it, its learning curve, its scores."""
    return json.loads(data_file(RECORDS).read_text())["teachers"]


def plain_methods() -> dict[str, dict[str, Any]]:
    """Return what plain methods scored on the teachers' tasks (`comparisons`), by name."""
    return json.loads(data_file(RECORDS).read_text())["baselines"]


def stacking() -> dict[str, Any]:
    """Return what training the seeds as one stack costs, and how far each is from training alone (`comparisons`)."""
    return json.loads(data_file(RECORDS).read_text())["stacking"]["seeds"]
