"""Tests of an explanation: hard ones with a right answer, and evidence beside controls that know nothing."""

import importlib
from typing import Any

from ..base.errors import NotApplicable as NotApplicable
from ..base.named import Registry
from .agreement import (
    FaithfulnessCorrelation as FaithfulnessCorrelation,
    Infidelity as Infidelity,
    SensitivityN as SensitivityN,
)
from .axioms import Dummy as Dummy, Sensitivity as Sensitivity
from .base import Check as Check, Measured as Measured
from .case import Case as Case
from .complexity import Entropy as Entropy, Gini as Gini
from .exact import Completeness as Completeness, Determinism as Determinism, Linearity as Linearity
from .fragility import Fragility as Fragility
from .imputers import (
    Blurred as Blurred,
    Fill as Fill,
    Imputer as Imputer,
    MeanColour as MeanColour,
    NoisyLinear as NoisyLinear,
    UniformNoise as UniformNoise,
)
from .invariance import ImplementationInvariance as ImplementationInvariance
from .localisation import (
    GridPointing as GridPointing,
    IoU as IoU,
    MaskROC as MaskROC,
    PointingGame as PointingGame,
    RelevanceMass as RelevanceMass,
    RelevanceRank as RelevanceRank,
    masks_of_boxes as masks_of_boxes,
)
from .randomisation import Randomisation as Randomisation
from .removal import (
    IROF as IROF,
    ROAD as ROAD,
    SRG as SRG,
    Deletion as Deletion,
    Insertion as Insertion,
    PixelFlipping as PixelFlipping,
)
from .shift import BiasShift as BiasShift, InputShift as InputShift
from .stability import AvgSensitivity as AvgSensitivity, MaxSensitivity as MaxSensitivity

CHECKS: Registry[Check] = Registry(
    "checks",
    Check,
    (
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
    ),
    "deletion(steps=16)",
)
"""Every check, the one registry that names, tests and pages read."""

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
        return CHECKS.read
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"..evaluation.{_MOVED[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_MOVED]
