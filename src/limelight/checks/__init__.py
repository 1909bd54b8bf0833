"""Tests of an explanation: hard ones with a right answer, and evidence beside controls that know nothing."""

import importlib
from typing import Any

from ..base.errors import NotApplicable
from .agreement import FaithfulnessCorrelation, Infidelity, SensitivityN
from .axioms import Dummy, Sensitivity
from .base import Check, Measured
from .case import Case
from .complexity import Entropy, Gini
from .exact import Completeness, Determinism, Linearity
from .fragility import Fragility
from .imputers import Blurred, Fill, Imputer, MeanColour, NoisyLinear, UniformNoise
from .invariance import ImplementationInvariance
from .localisation import GridPointing, IoU, MaskROC, PointingGame, RelevanceMass, RelevanceRank, masks_of_boxes
from .randomisation import Randomisation
from .removal import IROF, ROAD, SRG, Deletion, Insertion, PixelFlipping
from .shift import BiasShift, InputShift
from .stability import AvgSensitivity, MaxSensitivity

CHECKS: tuple[type[Check], ...] = (
    Completeness,
    Sensitivity,
    Dummy,
    Linearity,
    ImplementationInvariance,
    InputShift,
    BiasShift,
    Randomisation,
    Determinism,
    Fragility,
    MaxSensitivity,
    AvgSensitivity,
    Deletion,
    Insertion,
    SRG,
    PixelFlipping,
    ROAD,
    Infidelity,
    SensitivityN,
    FaithfulnessCorrelation,
    IROF,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    IoU,
    MaskROC,
    GridPointing,
    Gini,
    Entropy,
)
"""Every check, the one registry that names, tests and pages read."""

__all__ = [
    "CHECKS",
    "IROF",
    "ROAD",
    "SRG",
    "AvgSensitivity",
    "BiasShift",
    "Blurred",
    "Case",
    "Check",
    "Completeness",
    "Deletion",
    "Determinism",
    "Dummy",
    "Entropy",
    "FaithfulnessCorrelation",
    "Fill",
    "Fragility",
    "Gini",
    "GridPointing",
    "ImplementationInvariance",
    "Imputer",
    "Infidelity",
    "InputShift",
    "Insertion",
    "IoU",
    "Linearity",
    "MaskROC",
    "MaxSensitivity",
    "MeanColour",
    "Measured",
    "NoisyLinear",
    "NotApplicable",
    "PixelFlipping",
    "PointingGame",
    "Randomisation",
    "RelevanceMass",
    "RelevanceRank",
    "Sensitivity",
    "SensitivityN",
    "UniformNoise",
    "masks_of_boxes",
]

# Until 0.2, the names that moved to `limelight.evaluation`.
_MOVED = {
    "CARD": "check",
    "check": "check",
    "QUICK": "budget",
    "quick_checks": "budget",
    "TrustCard": "card",
    "card_of": "card",
    "trust_card": "card",
    "Cell": "evaluate",
    "Evaluation": "evaluate",
    "evaluate": "evaluate",
    "CONTROLS": "controls",
    "ConstantMap": "controls",
    "RandomMap": "controls",
    "SobelEdges": "controls",
    "Finding": "findings",
    "Findings": "findings",
}


def __getattr__(name: str) -> Any:
    if name == "parse_check":
        return importlib.import_module(".parse", __name__).parse_check
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"..evaluation.{_MOVED[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, *_MOVED]
