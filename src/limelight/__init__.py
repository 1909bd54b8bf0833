"""limelight: which pixels made a network say what it said, and whether the map can be believed.

import limelight as ll

a = ll.explain(model, x, ll.IntegratedGradients(), target=281, baseline=ll.Black())
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import ctrl_c as _ctrl_c  # first, so that it holds for all other imports
from .base.attribution import Attribution as Attribution, Panel as Panel
from .base.errors import DamagedFile as DamagedFile
from .base.named import Named as Named
from .base.notes import Note as Note
from .base.several import SeveralAttributions as SeveralAttributions
from .base.text import Text as Text
from .base.version import __version__ as __version__
from .base.view import VIEWS as VIEWS, View as View
from .checks import CHECKS as CHECKS, Check as Check
from .engine.prepared import Prepared as Prepared, prepare as prepare
from .engine.score import Score as Score
from .explain import explain as explain
from .methods import (
    METHODS as METHODS,
    QUADRATURES as QUADRATURES,
    WINDOWS as WINDOWS,
    Method as Method,
    Quadrature as Quadrature,
)
from .methods.backward import estimate_patterns as estimate_patterns
from .models.black_box import BlackBox as BlackBox, Differentiable as Differentiable
from .models.text import TextModel as TextModel
from .question.baselines import Baseline as Baseline
from .question.players import Players as Players
from .question.registries import BASELINES as BASELINES, PLAYERS as PLAYERS, TARGETS as TARGETS
from .question.targets import Target as Target
from .rules import Patterns as Patterns, UncoveredOperator as UncoveredOperator

# Tests, pictures, models and data sets load when first used: a program that explains its own tensors needs none.
_LATE = {
    "evaluation": (
        *("AlongPath", "along_path"),
        *("Agreement", "BaselineStudy", "ConstantMap", "Evaluation", "Finding", "Findings", "RandomMap", "SobelEdges"),
        *("ShiftStudy", "Sweep", "TrustCard", "check", "compare_baselines", "compare_shifts", "evaluate", "sweep"),
        *("WindowScores", "trust_card", "window_scores"),
    ),
    "models.catalogue": ("ImageBlackBox", "ImageModel", "demo_image", "load_model"),
    "models.text_models": ("load_text_model",),
    "models.pictures": ("ImageError", "Picture", "open_image"),
    "runs": ("Audit", "Run", "audit", "open_run", "run"),
}
_PACKAGES = ("checks", "lab", "rules", "runs")

if TYPE_CHECKING:
    from .checks import *
    from .evaluation.agreement import Agreement as Agreement
    from .evaluation.along_path import AlongPath as AlongPath, along_path as along_path
    from .evaluation.card import TrustCard as TrustCard, trust_card as trust_card
    from .evaluation.check import check as check
    from .evaluation.compare_baselines import BaselineStudy as BaselineStudy, compare_baselines as compare_baselines
    from .evaluation.compare_shifts import ShiftStudy as ShiftStudy, compare_shifts as compare_shifts
    from .evaluation.controls import ConstantMap as ConstantMap, RandomMap as RandomMap, SobelEdges as SobelEdges
    from .evaluation.evaluate import Evaluation as Evaluation, evaluate as evaluate
    from .evaluation.findings import Finding as Finding, Findings as Findings
    from .evaluation.sweep import Sweep as Sweep, sweep as sweep
    from .evaluation.window_scores import WindowScores as WindowScores, window_scores as window_scores
    from .methods import *
    from .models.catalogue import (
        ImageBlackBox as ImageBlackBox,
        ImageModel as ImageModel,
        demo_image as demo_image,
        load_model as load_model,
    )
    from .models.pictures import ImageError as ImageError, Picture as Picture, open_image as open_image
    from .models.text_models import load_text_model as load_text_model
    from .question.baselines import *
    from .question.column_players import *
    from .question.detectors import *
    from .question.output_targets import *
    from .question.players import *
    from .question.sequence_baselines import *
    from .question.series_baselines import *
    from .question.series_players import *
    from .question.targets import *
    from .question.text_baselines import *
    from .question.text_players import *
    from .question.text_targets import *
    from .runs import Audit as Audit, Run as Run, audit as audit, open_run as open_run, run as run

    parse_method = METHODS.read
else:
    # A class that is listed in its registry is public by that.
    _KINDS = {
        kind.__name__: kind
        for registry in (METHODS, QUADRATURES, WINDOWS, CHECKS, TARGETS, BASELINES, PLAYERS)
        for kind in registry
        if kind.__name__ != "Function"
    }
    globals().update(_KINDS)
    parse_method = METHODS.read  # the old name, until 0.2
    __all__ = sorted(
        {
            *(name for name, value in globals().items() if name[0] != "_" and not isinstance(value, ModuleType)),
            *(name for names in _LATE.values() for name in names),
            "__version__",
        }
        - {"TYPE_CHECKING", "Any", "ModuleType", "annotations"},
        key=lambda name: (not name.isupper(), not name[0].isupper(), name),
    )


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    home = next((module for module, names in _LATE.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return [*globals()["__all__"], *_PACKAGES, "__doc__", "__file__", "__name__", "__path__"]
