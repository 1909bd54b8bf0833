"""Fitted scikit-learn estimators as functions of rows: which of their methods gives scores, and one column a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base.notes import Note

_METHODS = ("predict_proba", "decision_function", "predict")
INDICATORS = Note(
    "caution",
    "the model gives labels alone: a score is 1 where its class is predicted and 0 elsewhere, so evidence that does "
    "not change the label does not show",
)

Scores = Callable[[np.ndarray], Any]


def is_estimator(model: Any) -> bool:
    """Whether this has one of the methods that give an estimator's scores."""
    return not isinstance(model, type) and any(callable(getattr(model, name, None)) for name in _METHODS)


def is_label_method(function: Any) -> bool:
    """Whether this is the bound method `predict` of a classifier."""
    owner = getattr(function, "__self__", None)
    return getattr(function, "__name__", "") == "predict" and getattr(owner, "classes_", None) is not None


def scores_of(estimator: Any) -> tuple[Scores, tuple[Note, ...]]:
    """Return a function of flat rows, and notes on it.

    It gives class probabilities, else the decision function, else predictions, whichever the estimator has first. One
    column of decisions d between two classes becomes two, -d and d. The labels of a classifier become indicators, one
    column a class, with a caution. Raises TypeError for an estimator without any of these, ValueError for one whose
    decisions are votes between pairs of classes.
    """
    classes = _classes(estimator)
    if callable(getattr(estimator, "predict_proba", None)):
        return _Probabilities(estimator), ()
    if callable(getattr(estimator, "decision_function", None)):
        last = _last(estimator)
        if getattr(last, "decision_function_shape", "ovr") == "ovo" and (classes is None or len(classes) > 2):
            raise ValueError(
                f"model: {type(last).__name__}(decision_function_shape='ovo') gives votes between pairs of classes, "
                "which are no class's score; use .set_params(decision_function_shape='ovr'), which needs no new fit"
            )
        return _Decisions(estimator, classes), ()
    if callable(getattr(estimator, "predict", None)):
        return _Predictions(estimator, classes), () if classes is None else (INDICATORS,)
    raise TypeError(
        f"model: {type(estimator).__name__} has no predict_proba, decision_function or predict; pass a fitted "
        "estimator or pipeline"
    )


class _Probabilities:
    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, rows: np.ndarray) -> Any:
        found = self.estimator.predict_proba(rows)
        if isinstance(found, list):
            raise TypeError(
                f"model: {type(self.estimator).__name__}.predict_proba gives {len(found)} tables, one for each of its "
                "outputs; explain one: BlackBox(lambda rows: estimator.predict_proba(rows)[0], layout='flat')"
            )
        return found


class _Decisions:
    def __init__(self, estimator: Any, classes: np.ndarray | None) -> None:
        self.estimator, self.classes = estimator, classes

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = np.asarray(self.estimator.decision_function(rows))
        if self.classes is None:
            return found  # of an outlier detector: one score
        table = found.reshape(len(found), -1)
        if table.shape[1] == 1 and len(self.classes) == 2:
            return np.concatenate([-table, table], axis=1)
        if table.shape[1] != len(self.classes):
            raise ValueError(
                f"model: {type(self.estimator).__name__}.decision_function gives {table.shape[1]} columns for "
                f"{len(self.classes)} classes, which are no scores of the classes; use one with a column for each"
            )
        return table


class _Predictions:
    def __init__(self, estimator: Any, classes: np.ndarray | None) -> None:
        self.estimator, self.classes = estimator, classes

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.asarray(self.estimator.predict(rows))
        if self.classes is not None and found.ndim == 1:
            hits: np.ndarray = found[:, None] == self.classes
            return hits.astype(np.float64)
        if found.dtype.kind != "f":
            scores = ", ".join(name for name in ("transform", "score_samples") if hasattr(self.estimator, name))
            instead = f", for example of its {scores}" if scores else ""
            raise TypeError(
                f"model: {type(self.estimator).__name__}.predict gives labels ({found.dtype} {found.shape}), and a "
                f"label says nothing of how near the next one is; use a BlackBox of a function of scores{instead}"
            )
        return found


def _classes(estimator: Any) -> np.ndarray | None:
    """Return the classes of a classifier with a single output; None for other estimators."""
    classes = getattr(estimator, "classes_", None)
    return classes if isinstance(classes, np.ndarray) and classes.ndim == 1 else None


def _last(estimator: Any) -> Any:
    """Return the estimator that decides inside pipelines, searches and wrappers."""
    while True:
        steps = getattr(estimator, "steps", None)
        inner = steps[-1][1] if isinstance(steps, list) and steps else None
        if inner is None:
            held = [getattr(estimator, name, None) for name in ("best_estimator_", "estimator_", "estimator")]
            # A template that was not fitted, as one-versus-rest keeps it, decides nothing.
            inner = next((each for each in held[:2] if each is not None), None)
            inner = held[2] if inner is None and _classes(held[2]) is not None else inner
        if inner is None or isinstance(inner, str):  # "passthrough"
            return estimator
        estimator = inner
