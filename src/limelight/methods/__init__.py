"""Every method, and METHODS, the one registry that tests, command line, page, docs and benchmark read."""

from .ablation import FeatureAblation
from .at_layer import AtLayer
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
from .blur import BlurIntegratedGradients
from .cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .cam_forward import CAM, AblationCAM, EigenCAM, ScoreCAM
from .extremal import ExtremalPerturbation
from .full_gradient import FullGrad
from .gradient import Gradient, InputXGradient
from .guided_path import GuidedIntegratedGradients
from .idgi import IDGI
from .kernel_shap import KernelShap
from .lime import Lime
from .occlusion import Occlusion
from .partition import PartitionShap
from .path import ExpectedGradients, IntegratedGradients
from .perturbation import MeaningfulPerturbation
from .quadrature import GaussLegendre, Midpoint, Quadrature, RiemannLeft, RiemannRight, Trapezoid
from .rise import RISE
from .shapley import ExactShapley, PermutationShap, ShapleySampling
from .taylor import TaylorDecomposition
from .wrap import SmoothGrad, SmoothGradSquared, VarGrad
from .xrai import XRAI

METHODS: tuple[type[Method], ...] = (
    Gradient,
    InputXGradient,
    FullGrad,
    IntegratedGradients,
    ExpectedGradients,
    BlurIntegratedGradients,
    GuidedIntegratedGradients,
    IDGI,
    XRAI,
    AtLayer,
    TaylorDecomposition,
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
    CAM,
    GradCAM,
    GuidedGradCAM,
    GradCAMPlusPlus,
    XGradCAM,
    HiResCAM,
    LayerCAM,
    EigenCAM,
    ScoreCAM,
    AblationCAM,
    Occlusion,
    FeatureAblation,
    RISE,
    MeaningfulPerturbation,
    ExtremalPerturbation,
    ExactShapley,
    KernelShap,
    ShapleySampling,
    PermutationShap,
    PartitionShap,
    Lime,
)

QUADRATURES: tuple[type[Quadrature], ...] = (GaussLegendre, Midpoint, RiemannLeft, RiemannRight, Trapezoid)

__all__ = [
    "CAM",
    "CPLRP",
    "IDGI",
    "LRP",
    "METHODS",
    "QUADRATURES",
    "RISE",
    "XRAI",
    "AblationCAM",
    "AtLayer",
    "AttnLRP",
    "BlurIntegratedGradients",
    "DeconvNet",
    "DeepLift",
    "DeepShap",
    "DeepTaylor",
    "EigenCAM",
    "Estimate",
    "ExactShapley",
    "ExcitationBackprop",
    "ExpectedGradients",
    "ExtremalPerturbation",
    "FeatureAblation",
    "FullGrad",
    "GaussLegendre",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIntegratedGradients",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerCAM",
    "Lime",
    "MeaningfulPerturbation",
    "Method",
    "Midpoint",
    "Needs",
    "Occlusion",
    "PartitionShap",
    "PatternAttribution",
    "PatternNet",
    "PermutationShap",
    "Quadrature",
    "RiemannLeft",
    "RiemannRight",
    "ScoreCAM",
    "ShapleySampling",
    "SmoothGrad",
    "SmoothGradSquared",
    "TaylorDecomposition",
    "Trapezoid",
    "VarGrad",
    "XGradCAM",
]
