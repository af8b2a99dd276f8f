"""Transformers as PDEs, measured.

Everything that moves through depth is a `Flow`: a Transformer gives one through `capture`, a PDE gives one through
its integrator, and every measure takes Flows.
"""

from .agreement.report import Report, compare, skill
from .attention.call import CaptureError
from .attention.capture import capture, flow_of
from .attention.heads import Heads, measure_heads
from .attention.pairs import attention_cosine, attention_divergence
from .attention.statistics import AttentionStatistics, attend_with_statistics, attention_statistics, statistics_of
from .attention.substitute import substitute_attention
from .flow import Flow
from .information.checks import check_estimator
from .information.estimate import Estimate, mutual_information
from .information.noise import HalfNoise, NoisyInformation, half_information_noise, noisy_information
from .information.usable import UsableInformation, conditional_usable_information, usable_information
from .lattice import Chain, Grid, gradient, laplacian
from .pde.equation import PDE, TransformerPDE
from .pde.fit import Fit, FitError, fit
from .pde.integrate import DivergenceError, integrate
from .pde.parity import equation_of
from .pde.plan import Plan
from .pde.stability import StepError
from .sensitivity.adjoint import adjoint_gradient
from .sensitivity.flow_map import FlowMap, flow_map
from .sensitivity.gradients import gradient_flow
from .sensitivity.growth import lyapunov_exponents, perturbation_growth
from .sensitivity.jacobian import FieldJacobian
from .sensitivity.normality import coupling, non_normality
from .sensitivity.singular import influence, jacobian_spectrum
from .sensitivity.spectrum import spectrum
from .sensitivity.survey import measure_sensitivity

__all__ = [
    "PDE",
    "AttentionStatistics",
    "CaptureError",
    "Chain",
    "DivergenceError",
    "Estimate",
    "FieldJacobian",
    "Fit",
    "FitError",
    "Flow",
    "FlowMap",
    "Grid",
    "HalfNoise",
    "Heads",
    "NoisyInformation",
    "Plan",
    "Report",
    "StepError",
    "TransformerPDE",
    "UsableInformation",
    "adjoint_gradient",
    "attend_with_statistics",
    "attention_cosine",
    "attention_divergence",
    "attention_statistics",
    "capture",
    "check_estimator",
    "compare",
    "conditional_usable_information",
    "coupling",
    "equation_of",
    "fit",
    "flow_map",
    "flow_of",
    "gradient",
    "gradient_flow",
    "half_information_noise",
    "influence",
    "integrate",
    "jacobian_spectrum",
    "laplacian",
    "lyapunov_exponents",
    "measure_heads",
    "measure_sensitivity",
    "mutual_information",
    "noisy_information",
    "non_normality",
    "perturbation_growth",
    "skill",
    "spectrum",
    "statistics_of",
    "substitute_attention",
    "usable_information",
]

__version__ = "0.1.0"
