"""Tests of an explanation: hard ones with a right answer, and evidence beside controls that know nothing."""

from .agreement import FaithfulnessCorrelation, Infidelity, SensitivityN
from .axioms import Dummy, Sensitivity
from .base import Check, Measured
from .case import Case, NotApplicable
from .complexity import Entropy, Gini
from .controls import CONTROLS, ConstantMap, RandomMap, SobelEdges
from .exact import Completeness, Determinism, Linearity
from .fragility import Fragility
from .imputers import Blurred, Fill, Imputer, MeanColour, NoisyLinear, UniformNoise
from .invariance import ImplementationInvariance
from .localisation import (
    GridPointing,
    IoU,
    MaskROC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    masks_of_boxes,
)
from .randomisation import Randomisation
from .removal import IROF, ROAD, SRG, Deletion, Insertion, PixelFlipping
from .shift import BiasShift, InputShift
from .stability import AvgSensitivity, MaxSensitivity
from .table import Finding, Findings

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

CARD: tuple[Check, ...] = (
    Completeness(),
    Determinism(),
    Sensitivity(),
    Dummy(),
    Linearity(),
    ImplementationInvariance(),
    InputShift(),
    Randomisation(stages=2),
    BiasShift(),
    MaxSensitivity(samples=4),
    SRG(steps=16),
    Deletion(steps=32),
    Insertion(steps=32),
    Gini(),
)
"""What the trust card runs: every hard test, then the evidence."""

QUICK: tuple[Check, ...] = (
    Completeness(),
    Determinism(company=False),
    Randomisation(stages=1, draws=1),
    BiasShift(),
)
"""What `limelight explain` runs within its budget of rows."""

# Below, because they read the registry.
from .card import TrustCard, card_of, trust_card  # noqa: E402
from .evaluating import Cell, Evaluation, evaluate  # noqa: E402
from .parse import parse_check  # noqa: E402
from .quick import quick_checks  # noqa: E402
from .running import check  # noqa: E402

__all__ = [
    "CARD",
    "CHECKS",
    "CONTROLS",
    "IROF",
    "QUICK",
    "ROAD",
    "SRG",
    "AvgSensitivity",
    "BiasShift",
    "Blurred",
    "Case",
    "Cell",
    "Check",
    "Completeness",
    "ConstantMap",
    "Deletion",
    "Determinism",
    "Dummy",
    "Entropy",
    "Evaluation",
    "FaithfulnessCorrelation",
    "Fill",
    "Finding",
    "Findings",
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
    "RandomMap",
    "Randomisation",
    "RelevanceMass",
    "RelevanceRank",
    "Sensitivity",
    "SensitivityN",
    "SobelEdges",
    "TrustCard",
    "UniformNoise",
    "card_of",
    "check",
    "evaluate",
    "masks_of_boxes",
    "parse_check",
    "quick_checks",
    "trust_card",
]
