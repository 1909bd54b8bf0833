"""limelight: which pixels made a network say what it said, and whether the map can be believed.

import limelight as ll

a = ll.explain(model, x, ll.IntegratedGradients(), target=281, baseline=ll.Black())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base.attribution import Attribution, Panel
from .base.version import __version__
from .engine.score import Score
from .evaluation.compare_baselines import BaselineStudy, compare_baselines
from .evaluation.sweep import Sweep, sweep
from .explain import explain
from .methods import (
    CAM,
    CPLRP,
    IDGI,
    LRP,
    METHODS,
    RISE,
    XRAI,
    AblationCAM,
    AtLayer,
    AttnLRP,
    BlurIntegratedGradients,
    DeconvNet,
    DeepLift,
    DeepShap,
    DeepTaylor,
    EigenCAM,
    ExactShapley,
    ExcitationBackprop,
    ExpectedGradients,
    ExtremalPerturbation,
    FeatureAblation,
    FullGrad,
    GaussLegendre,
    GradCAM,
    GradCAMPlusPlus,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    GuidedIntegratedGradients,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerCAM,
    Lime,
    MeaningfulPerturbation,
    Method,
    Midpoint,
    Occlusion,
    PartitionShap,
    PatternAttribution,
    PatternNet,
    PermutationShap,
    Quadrature,
    RiemannLeft,
    RiemannRight,
    ScoreCAM,
    ShapleySampling,
    SmoothGrad,
    SmoothGradSquared,
    TaylorDecomposition,
    Trapezoid,
    VarGrad,
    XGradCAM,
)
from .methods.parse import parse_method
from .methods.pattern_estimation import estimate_patterns
from .models.black_box import BlackBox
from .models.differentiable import Differentiable
from .question.baselines import Baseline, Black, Blur, Constant, Mean, Minimum, Noise, Samples, White
from .question.output_targets import Box, Neuron, Region, Similarity
from .question.players import Features, Felzenszwalb, Grid, Pixels, Players, SegmentMean, Segments, Slic
from .question.sequence_baselines import Frequencies, Shuffle
from .question.targets import CentredLogit, Logit, LogProbability, Margin, Probability, Target
from .rules import Patterns, UncoveredOperator

if TYPE_CHECKING:
    from .checks import (
        CHECKS,
        IROF,
        ROAD,
        SRG,
        AvgSensitivity,
        BiasShift,
        Check,
        Completeness,
        Deletion,
        Determinism,
        Dummy,
        Entropy,
        FaithfulnessCorrelation,
        Fragility,
        Gini,
        GridPointing,
        ImplementationInvariance,
        Infidelity,
        InputShift,
        Insertion,
        IoU,
        Linearity,
        MaskROC,
        MaxSensitivity,
        PixelFlipping,
        PointingGame,
        Randomisation,
        RelevanceMass,
        RelevanceRank,
        Sensitivity,
        SensitivityN,
    )
    from .evaluation.card import TrustCard, trust_card
    from .evaluation.check import check
    from .evaluation.controls import ConstantMap, RandomMap, SobelEdges
    from .evaluation.evaluate import Evaluation, evaluate
    from .evaluation.findings import Finding, Findings
    from .models.catalogue import ImageModel, demo_image, load_model
    from .models.pictures import ImageError, Picture, open_image
    from .runs import Run, open_run, run

# Pictures and models load when first asked for: a program that brings its own tensors needs neither.
_LATE = {
    "ImageModel": "models.catalogue",
    "load_model": "models.catalogue",
    "demo_image": "models.catalogue",
    "ImageError": "models.pictures",
    "Picture": "models.pictures",
    "open_image": "models.pictures",
    "Run": "runs",
    "open_run": "runs",
    "run": "runs",
    "CHECKS": "checks",
}
_PACKAGES = ("checks", "lab", "rules", "runs")

__all__ = [
    "CAM",
    "CHECKS",
    "CPLRP",
    "IDGI",
    "IROF",
    "LRP",
    "METHODS",
    "RISE",
    "ROAD",
    "SRG",
    "XRAI",
    "AblationCAM",
    "AtLayer",
    "AttnLRP",
    "Attribution",
    "AvgSensitivity",
    "Baseline",
    "BaselineStudy",
    "BiasShift",
    "Black",
    "BlackBox",
    "Blur",
    "BlurIntegratedGradients",
    "Box",
    "CentredLogit",
    "Check",
    "Completeness",
    "Constant",
    "ConstantMap",
    "DeconvNet",
    "DeepLift",
    "DeepShap",
    "DeepTaylor",
    "Deletion",
    "Determinism",
    "Differentiable",
    "Dummy",
    "EigenCAM",
    "Entropy",
    "Evaluation",
    "ExactShapley",
    "ExcitationBackprop",
    "ExpectedGradients",
    "ExtremalPerturbation",
    "FaithfulnessCorrelation",
    "FeatureAblation",
    "Features",
    "Felzenszwalb",
    "Finding",
    "Findings",
    "Fragility",
    "Frequencies",
    "FullGrad",
    "GaussLegendre",
    "Gini",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "Grid",
    "GridPointing",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIntegratedGradients",
    "HiResCAM",
    "ImageError",
    "ImageModel",
    "ImplementationInvariance",
    "Infidelity",
    "InputShift",
    "InputXGradient",
    "Insertion",
    "IntegratedGradients",
    "IoU",
    "KernelShap",
    "LayerCAM",
    "Lime",
    "Linearity",
    "LogProbability",
    "Logit",
    "Margin",
    "MaskROC",
    "MaxSensitivity",
    "Mean",
    "MeaningfulPerturbation",
    "Method",
    "Midpoint",
    "Minimum",
    "Neuron",
    "Noise",
    "Occlusion",
    "Panel",
    "PartitionShap",
    "PatternAttribution",
    "PatternNet",
    "Patterns",
    "PermutationShap",
    "Picture",
    "PixelFlipping",
    "Pixels",
    "Players",
    "PointingGame",
    "Probability",
    "Quadrature",
    "RandomMap",
    "Randomisation",
    "Region",
    "RelevanceMass",
    "RelevanceRank",
    "RiemannLeft",
    "RiemannRight",
    "Run",
    "Samples",
    "Score",
    "ScoreCAM",
    "SegmentMean",
    "Segments",
    "Sensitivity",
    "SensitivityN",
    "ShapleySampling",
    "Shuffle",
    "Similarity",
    "Slic",
    "SmoothGrad",
    "SmoothGradSquared",
    "SobelEdges",
    "Sweep",
    "Target",
    "TaylorDecomposition",
    "Trapezoid",
    "TrustCard",
    "UncoveredOperator",
    "VarGrad",
    "White",
    "XGradCAM",
    "__version__",
    "check",
    "compare_baselines",
    "demo_image",
    "estimate_patterns",
    "evaluate",
    "explain",
    "load_model",
    "open_image",
    "open_run",
    "parse_method",
    "run",
    "sweep",
    "trust_card",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in __all__:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    if name not in _LATE:
        return getattr(importlib.import_module(".checks", __name__), name)
    return getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, *_PACKAGES, "__doc__", "__file__", "__name__", "__path__"]
