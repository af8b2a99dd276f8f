"""The claims of the paper, how each is tested and which records its verdict reads."""

from typing import Any

from .verdicts import Claim

# Written before the calibrations that they judge (`companion.surrogates.laws`). Attention's cosine, in every layer; the
# states' pooled R2, at every depth; the share of the one-step agreement's excess over the best null that the converged
# solution keeps; and how far the attention of a law and of its twin without diffusion may lie apart, interval and all,
# for diffusion to be called without effect.
COSINE, R2, SURVIVES, EQUIVALENT = 0.98, 0.9, 0.95, 0.01
# Classifiers of images and texts, and a model of language, of which fewer things are measured.
SUBJECTS = ("image", "text", "language")
# By how much an equation has to be closer to its own Transformer than every other seed's and every null.
MARGIN = 0.0
# Kinds of changes of an input, as the records name them.
CHANGES = {"random noise": "noise", "one token": "token", "adversarial": "gradient", "natural": "natural"}
# Written before the runs that it judges (`companion.bottleneck`): compression beyond the nulls', in nats.
COMPRESSED = 0.0
# Written before the runs that it judges (`companion.stabilisers`): what is lost without a stabiliser, in nats of the
# best loss over learning rates, or gained by it, in nats or in octaves of the largest stable rate.
STABILISES = 0.0


def _of(key: str, modalities: tuple[str, ...] = SUBJECTS[:2]) -> dict[str, str]:
    """Return a claim's records by modality."""
    return {modality: f"{key}.{modality}" for modality in modalities}


def _stabiliser(name: str, unit: str, other: str) -> dict[str, Any]:
    """Return how a claim that something stabilises is read.

    `unit` is that of what it is said to gain; `other` is what as many networks have that is no stabiliser.
    """
    odd = f"{other}: necessary"
    return {
        "readings": {"necessary": _of(f"stabilisers.{name}.necessary"), "helpful": _of(f"stabilisers.{name}.{unit}")},
        "null_keys": {
            odd: _of(f"stabilisers.{name}.null.necessary"),
            "LayerNorm for RMSNorm: helpful": _of(f"stabilisers.null.{unit}"),
        },
        "everywhere": ("necessary", odd),
        "skilled": False,
        "there": "stabilisers.there",
    }


def register() -> tuple[Claim, ...]:
    """Return every claim that the book tests, in order."""
    return _REGISTER


_REGISTER = (
    Claim(
        "C1",
        "The PDE's attention matches the Transformer's with a cosine similarity above 0.98 at all layers.",
        "Worst layer, mean over heads, held out, trained teachers; one autonomous equation, calibrated to attention "
        "and states: one step a layer (what a reader of the abstract would compute; calibrated so), and the converged "
        "solution.",
        bar=COSINE,
        readings={"one step a layer": _of("laws.c1.one-step"), "converged": _of("laws.c1.converged", SUBJECTS)},
        null_keys={"untrained models": _of("c1.null.untrained"), "trained models": _of("c1.null.trained")},
        budget=True,
    ),
    Claim(
        "C2",
        "The PDE captures how information flows through the layers.",
        "Pooled R2 of the states, worst depth, held out, from the embedding alone; the converged solution of one "
        "autonomous equation. The bar, 0.9, is this book's own.",
        bar=R2,
        readings={"": _of("laws.c2", SUBJECTS)},
        null_keys={"trained models": _of("laws.c2.null", SUBJECTS)},
        budget=True,
    ),
    Claim(
        "C2b",
        "The dynamics are a continuous process.",
        "The refinement alone: the share of the one-step agreement's excess over the best null that the converged "
        "solution keeps, worst layer. The bar, 0.95, is this book's own.",
        bar=SURVIVES,
        readings={"": _of("laws.c2b")},
        budget=True,
    ),
    Claim(
        "C3",
        "Layers compress their input and keep what predicts the label (information bottleneck).",
        "Compression in nats, from depth 1 to L and at depth L from the first step of training to the last, by the one "
        "of three measures that shows least of it (noise that leaves half of I(X;T) = ln N; matrix entropy; share of "
        "the scatter within classes): what there is beyond the random-label twin's and beyond none, on the same "
        "held-out inputs. Skill: of the usable I(T;Y) of the best depth, or moment, beyond the twin's last state, the "
        "share that the last one keeps.",
        bar=COMPRESSED,
        readings={f"over {reading}": _of(f"bottleneck.c3.{reading}") for reading in ("depth", "training")},
        null_keys={
            f"{null}, over {reading}": _of(f"bottleneck.c3.{key}.{reading}")
            for key, null in (("untrained", "an untrained network"), ("memorised", "random labels, memorised inputs"))
            for reading in ("depth", "training")
        },
    ),
    Claim(
        "C4",
        "Gradients flow through the PDE as through the Transformer.",
        "Direction of the loss's gradient in the space of inputs (pixels; pieces of words as rows of zeros and a one): "
        "mean cosine with the Transformer's own over held-out examples, of the converged solution read by the "
        "Transformer's head, less that of the best of every other seed's Transformer and every null, in each seed. "
        "Skill is the share of that best one's shortfall from 1 that is made up. The norm over depth decides nothing.",
        bar=MARGIN,
        readings={law: _of(f"gradients.c4.{law.replace(' ', '-')}") for law in ("three laws", "one law")},
        null_keys={"trained models": _of("gradients.c4.null")},
        budget=True,
    ),
    Claim(
        "C5",
        "The PDE is as sensitive to perturbations as the Transformer.",
        "Growth of a change of the input up to the last depth, held-out example by example: Spearman's rank "
        "correlation with the Transformer's own, partial on the input's norm, the Transformer's margin and the size of "
        "the change, of the converged solution of three laws, less that of the best of every other seed's Transformer "
        "and every null (untrained, affine, nearest inputs), in each seed. Skill is the share of that best one's "
        "shortfall from 1 that is made up. Natural changes: a picture moved by a pixel, two neighbouring pieces of a "
        "text exchanged. Mean growth, exponents and robust accuracy decide nothing.",
        bar=MARGIN,
        readings={name: _of(f"perturbations.c5.{kind}") for name, kind in CHANGES.items()},
        null_keys={
            **{f"{name}, the best null": _of(f"perturbations.c5.{kind}.null") for name, kind in CHANGES.items()},
            "the worst kind, one step a layer": _of("perturbations.c5.one-step"),
        },
        budget=True,
    ),
    Claim(
        "C6",
        "Complex non-linear transformations escape the PDE (the paper's own limit).",
        "Share of the states' variance, all channels pooled, that the converged solution misses, beyond what a cosine "
        "of 0.98 allows, and whether it is what no affine map of a layer can give.",
        bar=1 - 0.98**2,
        limit=True,
        budget=True,
        readings={"": _of("c6")},
        null_keys={"affine maps alone": _of("c6.null")},
    ),
    Claim(
        "C7",
        "Without residual connections, representations drift (so that they are a stabiliser).",
        "*Necessary*: best held-out loss over learning rates of the best network without a connection, conditioned "
        "ones among them, less that of the best of all 24 networks. *Helpful*: what the standard network gains by its "
        "connection, in nats of the best loss. At the worst depth, over seeds. Drift itself is measured and decides "
        "nothing.",
        version="v2",
        bar=STABILISES,
        **_stabiliser("c7", "nats", "scaled or conditioned"),
    ),
    Claim(
        "C8",
        "Without layer normalisation, training explodes (so that it is a stabiliser).",
        "As C7: the best network without any normalisation; what the standard network gains by its LayerNorm, in "
        "octaves of the largest learning rate up to which nothing diverges, known to a step of the grid.",
        version="v2",
        bar=STABILISES,
        **_stabiliser("c8", "octaves", "RMSNorm"),
    ),
    Claim(
        "C9",
        "Information flows between layers as the theory says.",
        "What tokens' states tell of the token itself, of others at three distances and of the class (the next token, "
        "in a model of language), by depth: "
        "usable information of linear probes, held out. Distance of curves from the Transformer's (nats, mean over "
        "these five and depths 1 to 6): the nearest of all nulls and other seeds' Transformers, less the converged "
        "equation of three laws. The bar, 0, says that the equation is nearer than all of them.",
        bar=0.0,
        readings={"": _of("tokens.c9", SUBJECTS)},
        null_keys={"the nearest null": _of("tokens.c9.null", SUBJECTS)},
        budget=True,
    ),
)
