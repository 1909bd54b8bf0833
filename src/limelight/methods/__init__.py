"""Every method, and METHODS, the one registry that tests, command line, page, docs and benchmark read."""

from .backward import (
    CPLRP,
    LRP,
    AttnLRP,
    DeconvNet,
    DeepLift,
    DeepShap,
    DeepTaylor,
    ExcitationBackprop,
    GuidedBackprop,
    GuidedGradCAM,
    PatternAttribution,
    PatternNet,
)
from .base import Estimate, Method, Needs
from .cam import GradCAM
from .gradient import Gradient, InputXGradient
from .masks import Occlusion
from .path import ExpectedGradients, IntegratedGradients
from .quadrature import GaussLegendre, Midpoint, Quadrature, RiemannLeft, RiemannRight, Trapezoid
from .wrap import SmoothGrad, SmoothGradSquared, VarGrad

METHODS: tuple[type[Method], ...] = (
    Gradient,
    InputXGradient,
    IntegratedGradients,
    ExpectedGradients,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
    DeconvNet,
    GuidedBackprop,
    DeepLift,
    DeepShap,
    LRP,
    DeepTaylor,
    PatternNet,
    PatternAttribution,
    ExcitationBackprop,
    AttnLRP,
    CPLRP,
    GradCAM,
    GuidedGradCAM,
    Occlusion,
)

QUADRATURES: tuple[type[Quadrature], ...] = (GaussLegendre, Midpoint, RiemannLeft, RiemannRight, Trapezoid)

__all__ = [
    "CPLRP",
    "LRP",
    "METHODS",
    "QUADRATURES",
    "AttnLRP",
    "DeconvNet",
    "DeepLift",
    "DeepShap",
    "DeepTaylor",
    "Estimate",
    "ExcitationBackprop",
    "ExpectedGradients",
    "GaussLegendre",
    "GradCAM",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "InputXGradient",
    "IntegratedGradients",
    "Method",
    "Midpoint",
    "Needs",
    "Occlusion",
    "PatternAttribution",
    "PatternNet",
    "Quadrature",
    "RiemannLeft",
    "RiemannRight",
    "SmoothGrad",
    "SmoothGradSquared",
    "Trapezoid",
    "VarGrad",
]
