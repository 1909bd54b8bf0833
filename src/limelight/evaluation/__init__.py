"""Tests of maps: run checks, compare methods with controls, compare baselines and settings."""

from .budget import QUICK, quick_checks
from .card import TrustCard, card_of, trust_card
from .check import CARD, check
from .compare_baselines import BaselineStudy, compare_baselines
from .controls import CONTROLS, ConstantMap, RandomMap, SobelEdges
from .evaluate import Cell, Evaluation, evaluate
from .findings import Finding, Findings
from .sweep import Sweep, sweep

__all__ = [
    "CARD",
    "CONTROLS",
    "QUICK",
    "BaselineStudy",
    "Cell",
    "ConstantMap",
    "Evaluation",
    "Finding",
    "Findings",
    "RandomMap",
    "SobelEdges",
    "Sweep",
    "TrustCard",
    "card_of",
    "check",
    "compare_baselines",
    "evaluate",
    "quick_checks",
    "sweep",
    "trust_card",
]
