"""Every method, and METHODS, the one registry that tests, command line, page, docs and benchmark read."""

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
    GradCAM,
    Occlusion,
)

QUADRATURES: tuple[type[Quadrature], ...] = (GaussLegendre, Midpoint, RiemannLeft, RiemannRight, Trapezoid)

__all__ = [
    "METHODS",
    "QUADRATURES",
    "Estimate",
    "ExpectedGradients",
    "GaussLegendre",
    "GradCAM",
    "Gradient",
    "InputXGradient",
    "IntegratedGradients",
    "Method",
    "Midpoint",
    "Needs",
    "Occlusion",
    "Quadrature",
    "RiemannLeft",
    "RiemannRight",
    "SmoothGrad",
    "SmoothGradSquared",
    "Trapezoid",
    "VarGrad",
]
