"""What a survey of sensitivity costs on pretrained models, and whether it takes the memory that it has announced.

Each model in a process of its own, 128 tokens of film reviews; nothing here passes or fails by the clock.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

TOKENS, EXAMPLES = 128, 4
# Of MiniLM's six layers the influence of each token; of SmolLM2's thirty that of 16 successive ones together.
SURVEYS = {"minilm": {"segment": 1, "at_once": 4}, "smollm2": {"segment": 16, "at_once": 2, "rounds": 3, "draws": 3}}


def resident() -> int:
    """Return this process's resident set in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Peak(threading.Thread):
    """Watches the resident set until told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.over = resident(), threading.Event()

    def run(self):
        while not self.over.wait(0.01):
            self.most = max(self.most, resident())


def survey(name: str) -> dict[str, float]:
    """Measure one model, and return seconds, and bytes announced and taken."""
    import torch

    from companion.data.reviews import movie_reviews
    from companion.pretrained import models
    from pdelens.sensitivity.survey import measure_sensitivity

    encoder = getattr(models, name)()
    model = encoder.model.model if name == "smollm2" else encoder.model
    texts = [review.text for review in movie_reviews() if len(review.text) > 1000][:EXAMPLES]
    inputs = encoder.encode(texts, TOKENS)
    with torch.no_grad():
        model(**{key: value[:1] for key, value in inputs.items()})
    before, watch = resident(), Peak()
    watch.start()
    wall, cpu = time.perf_counter(), time.process_time()
    found = measure_sensitivity(model, inputs, max_bytes=8 * 2**30, **SURVEYS[name])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    watch.over.set()
    return {
        "wall": wall,
        "cpu": cpu,
        "announced": found.announced,
        "taken": watch.most - before,
        "exponent": float(found.exponents.value[:, 0].mean()),
        "exponent's error": float(found.exponents.error[:, 0].max()),
        "departure": float(found.departure.value.mean()),
        "asymmetry": float(found.asymmetry.value.mean()),
        "coupling": float(found.coupling.overlap.mean()),
    }


@pytest.mark.parametrize("name", SURVEYS)
def test_a_survey_of_a_pretrained_model(name):
    done = subprocess.run(
        [sys.executable, __file__, name], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    found = json.loads(done.stdout.splitlines()[-1])
    ratio = found["taken"] / found["announced"]
    print(
        f"\n{name}, {EXAMPLES} texts of {TOKENS} tokens: {found['wall']:.0f} s ({found['cpu']:.0f} s of "
        f"processors; goal 180 s on two); {found['announced'] / 2**30:.2f} GiB announced, {ratio:.2f} of it taken "
        "(goal within 0.2 of 1)"
    )
    print({key: round(value, 4) for key, value in found.items()})
    assert 0.8 < ratio < 1.2


if __name__ == "__main__":
    print(json.dumps(survey(sys.argv[1])))
