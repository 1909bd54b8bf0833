"""Checks of a map: hard ones with a right answer, and figures that are compared with controls."""

import importlib
from types import ModuleType
from typing import Any

from ..base.errors import NotApplicable as NotApplicable
from ..base.named import Registry
from .agreement import (
    FaithfulnessCorrelation as FaithfulnessCorrelation,
    Infidelity as Infidelity,
    SensitivityN as SensitivityN,
)
from .axioms import (
    Completeness as Completeness,
    Determinism as Determinism,
    Dummy as Dummy,
    Linearity as Linearity,
    Sensitivity as Sensitivity,
)
from .base import Check as Check, HardCheck as HardCheck, Measured as Measured
from .case import Case as Case
from .complexity import Entropy as Entropy, Gini as Gini
from .conservation import ConservedShare as ConservedShare
from .equal_networks import ImplementationInvariance as ImplementationInvariance, InputShift as InputShift
from .fine_detail import FineDetail as FineDetail
from .fragility import Fragility as Fragility
from .imputers import (
    Blurred as Blurred,
    Fill as Fill,
    Hide as Hide,
    Imputer as Imputer,
    MeanColour as MeanColour,
    NoisyLinear as NoisyLinear,
    UniformNoise as UniformNoise,
)
from .kept_by_map import (
    ADCC as ADCC,
    ARCC as ARCC,
    AverageDrop as AverageDrop,
    IncreaseInConfidence as IncreaseInConfidence,
)
from .localisation import (
    GridPointing as GridPointing,
    IoU as IoU,
    MaskROC as MaskROC,
    PointingGame as PointingGame,
    RelevanceMass as RelevanceMass,
    RelevanceRank as RelevanceRank,
    masks_of_boxes as masks_of_boxes,
)
from .logit_shift import LogitShift as LogitShift
from .randomisation import Randomisation as Randomisation
from .removal import (
    IROF as IROF,
    ROAD as ROAD,
    SRG as SRG,
    Deletion as Deletion,
    Insertion as Insertion,
    PixelFlipping as PixelFlipping,
)
from .shared import Asked as Asked
from .stability import AvgSensitivity as AvgSensitivity, BiasShift as BiasShift, MaxSensitivity as MaxSensitivity

CHECKS: Registry[Check] = Registry(
    "checks",
    Check,
    (
        *(Completeness, Sensitivity, Dummy, Linearity, ImplementationInvariance, LogitShift),
        *(InputShift, BiasShift),
        *(Randomisation, Determinism, Fragility, MaxSensitivity, AvgSensitivity),
        *(Deletion, Insertion, SRG, PixelFlipping, ROAD, Infidelity, SensitivityN, FaithfulnessCorrelation, IROF),
        *(AverageDrop, IncreaseInConfidence, ADCC, ARCC),
        FineDetail,
        *(PointingGame, RelevanceMass, RelevanceRank, IoU, MaskROC, GridPointing),
        *(Gini, Entropy),
        ConservedShare,
    ),
    "deletion(steps=16)",
)
"""All checks; names, tests and pages are read from it."""


def _moved() -> dict[str, Any]:
    """Return the names that moved to `limelight.evaluation`, found here until 0.2."""
    names = vars(importlib.import_module("..evaluation", __name__)).items()
    return {name: value for name, value in names if name[0] != "_" and not isinstance(value, ModuleType)}


def __getattr__(name: str) -> Any:
    if name == "parse_check":
        return CHECKS.read
    try:
        return _moved()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*globals(), *_moved()]
