"""Transformers as PDEs, measured.

Everything that moves through depth is a `Flow`: a Transformer gives one through `capture`, a PDE
gives one through its integrator, and every measure takes Flows.
"""

from importlib import import_module

from ._torchvision import declare_missing_operators
from .attention_pairs import attention_cosine, attention_divergence
from .attention_stats import AttentionStatistics, attend_with_statistics, attention_statistics, statistics_of
from .capture import CaptureError, capture, flow_of, substitute_attention
from .claims import Claim, Evidence, Verdict, register, verdict
from .compare import Report, compare, skill
from .fit import Fit, FitError, fit
from .flow import Flow
from .information import Estimate, mutual_information
from .integrate import DivergenceError, StepError, integrate
from .lattice import Chain, Grid, gradient, laplacian
from .pde import PDE, TransformerPDE
from .project import DataError
from .records import RecordError, finish_chapter, quote, record, recorded, start_chapter

# Loaded at first use: these bring plotting, data or models with them.
_MODULES = (
    "adoption",
    "agreement",
    "atlas",
    "attention_pairs",
    "attention_stats",
    "baselines",
    "brown",
    "calibration",
    "collapse",
    "datasets",
    "examples",
    "figures",
    "information",
    "information_checks",
    "information_density",
    "information_neighbours",
    "information_neural",
    "information_noise",
    "information_parametric",
    "information_records",
    "information_tasks",
    "information_trials",
    "intervals",
    "interventions",
    "judgement",
    "ladder",
    "laws",
    "models",
    "moments",
    "narrow",
    "neighbours",
    "nonlinearity",
    "nulls",
    "packages",
    "photographs",
    "position_share",
    "power",
    "posters",
    "pretrained",
    "reliability",
    "rungs",
    "shifts",
    "spheres",
    "splitting",
    "stability",
    "stacked",
    "standings",
    "stiffness",
    "subjects",
    "synthetic",
    "teachers",
    "temporal",
    "terms",
    "text",
    "training",
    "verification",
    "yardsticks",
)

__all__ = [
    "PDE",
    "AttentionStatistics",
    "CaptureError",
    "Chain",
    "Claim",
    "DataError",
    "DivergenceError",
    "Estimate",
    "Evidence",
    "Fit",
    "FitError",
    "Flow",
    "Grid",
    "RecordError",
    "Report",
    "StepError",
    "TransformerPDE",
    "Verdict",
    "attend_with_statistics",
    "attention_cosine",
    "attention_divergence",
    "attention_statistics",
    "capture",
    "compare",
    "finish_chapter",
    "fit",
    "flow_of",
    "gradient",
    "integrate",
    "laplacian",
    "mutual_information",
    "quote",
    "record",
    "recorded",
    "register",
    "skill",
    "start_chapter",
    "statistics_of",
    "substitute_attention",
    "verdict",
]

__version__ = "0.1.0"

declare_missing_operators()


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*__all__, *_MODULES})
