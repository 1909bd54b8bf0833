"""limelight: which pixels made a network say what it said, and whether the map can be believed.

import limelight as ll

a = ll.explain(model, x, ll.IntegratedGradients(), target=281, baseline=ll.Black())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .attribution import Attribution, Panel
from .baselines import Baseline, Black, Blur, Constant, Mean, Noise, Samples, White
from .differentiable import Differentiable
from .explain import explain
from .methods import (
    CPLRP,
    LRP,
    METHODS,
    AttnLRP,
    DeconvNet,
    DeepLift,
    DeepShap,
    DeepTaylor,
    ExcitationBackprop,
    ExpectedGradients,
    GaussLegendre,
    GradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Method,
    Midpoint,
    Occlusion,
    PatternAttribution,
    PatternNet,
    Quadrature,
    RiemannLeft,
    RiemannRight,
    SmoothGrad,
    SmoothGradSquared,
    Trapezoid,
    VarGrad,
)
from .methods.parse import parse_method
from .patterns import estimate_patterns
from .rules import Patterns, UncoveredOperator
from .score import Score
from .targets import (
    Box,
    CentredLogit,
    Logit,
    LogProbability,
    Margin,
    Neuron,
    Probability,
    Region,
    Similarity,
    Target,
)

if TYPE_CHECKING:
    from .images import ImageError, Picture, open_image
    from .models import ImageModel, demo_image, load_model

# Pictures and models load when first asked for: a program that brings its own tensors needs neither.
_LATE = {
    "ImageModel": "models",
    "load_model": "models",
    "demo_image": "models",
    "ImageError": "images",
    "Picture": "images",
    "open_image": "images",
}

__all__ = [
    "CPLRP",
    "LRP",
    "METHODS",
    "AttnLRP",
    "Attribution",
    "Baseline",
    "Black",
    "Blur",
    "Box",
    "CentredLogit",
    "Constant",
    "DeconvNet",
    "DeepLift",
    "DeepShap",
    "DeepTaylor",
    "Differentiable",
    "ExcitationBackprop",
    "ExpectedGradients",
    "GaussLegendre",
    "GradCAM",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "ImageError",
    "ImageModel",
    "InputXGradient",
    "IntegratedGradients",
    "LogProbability",
    "Logit",
    "Margin",
    "Mean",
    "Method",
    "Midpoint",
    "Neuron",
    "Noise",
    "Occlusion",
    "Panel",
    "PatternAttribution",
    "PatternNet",
    "Patterns",
    "Picture",
    "Probability",
    "Quadrature",
    "Region",
    "RiemannLeft",
    "RiemannRight",
    "Samples",
    "Score",
    "Similarity",
    "SmoothGrad",
    "SmoothGradSquared",
    "Target",
    "Trapezoid",
    "UncoveredOperator",
    "VarGrad",
    "White",
    "__version__",
    "demo_image",
    "estimate_patterns",
    "explain",
    "load_model",
    "open_image",
    "parse_method",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)
