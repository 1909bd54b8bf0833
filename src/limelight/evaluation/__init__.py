"""Tests of maps: run checks, compare methods with controls, compare baselines and settings."""

from .agreement import Agreement as Agreement
from .along_path import AlongPath as AlongPath, along_path as along_path
from .budget import QUICK as QUICK, quick_checks as quick_checks
from .card import TrustCard as TrustCard, card_of as card_of, trust_card as trust_card
from .check import CARD as CARD, check as check
from .compare_baselines import BaselineStudy as BaselineStudy, compare_baselines as compare_baselines
from .compare_shifts import ShiftStudy as ShiftStudy, compare_shifts as compare_shifts
from .controls import CONTROLS as CONTROLS, ConstantMap as ConstantMap, RandomMap as RandomMap, SobelEdges as SobelEdges
from .evaluate import Cell as Cell, Evaluation as Evaluation, evaluate as evaluate
from .findings import Finding as Finding, Findings as Findings
from .sweep import Sweep as Sweep, sweep as sweep
from .window_scores import WindowScores as WindowScores, window_scores as window_scores
