"""What a method is: a frozen dataclass of hyper-parameters with one pure function over a Score."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..engine.score import Score
from ..question.random_streams import Streams


@dataclass(frozen=True)
class Needs:
    """What a method asks of the question, so that `explain()` can prepare and share it.

    `gradients`: the model must be differentiable. `at_inputs`: reads the gradient at x itself (of the layer, if it
    reads one). `value`, `value_at_baseline`: reads f(x), f(b), which are free at the input itself and a row each
    elsewhere. `baseline`: compares with the baseline; `references`: wants all its references at once, as
    `(references, n, *features)`, instead of one at a time. `layer`: reads a layer. `told`: the
    Estimate brings f(x), and with a baseline f(b), from the method's own passes.
    """

    gradients: bool = True
    at_inputs: bool = False
    value: bool = False
    value_at_baseline: bool = False
    baseline: bool = False
    references: bool = False
    layer: bool = False
    told: bool = False


@dataclass(frozen=True)
class Told:
    """What a method's own passes told besides its map: scores `(n,)` at x and at the baseline, the outputs at x where
    they are one number or vector a row."""

    at_inputs: Tensor
    at_baseline: Tensor | None
    outputs: Tensor | None


@dataclass(frozen=True)
class Estimate:
    """A method's answer for a batch: `values` `(n, *features)` (channel axis 1 where channels count as one),
    `stderr` like values, `raw` the map before it was spread over the pixels, `told` where `Needs.told`, `layer` the
    layer read where the method names its own."""

    values: Tensor
    stderr: Tensor | None = None
    raw: Tensor | None = None
    notes: tuple[str, ...] = ()
    told: Told | None = None
    layer: str | None = None


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods. Subclasses are frozen dataclasses; their fields are the hyper-parameters."""

    no_sum: ClassVar[str | None] = None
    """Why the map's values promise no sum; None where they sum to f(x) - f(baseline)."""

    rows_at_most: ClassVar[bool] = False
    """Whether `rows` is a bound, because rows that turn out equal are run once."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def rows(self, features: torch.Size) -> int | None:
        """Model rows one example of this shape will cost beyond f(x) and f(baseline); None if not known before."""
        return None

    @abstractmethod
    def run(self, score: Score, x: Tensor, baseline: Tensor, rng: Streams) -> Estimate:
        """The map of each example: x and baseline are `(n, *features)`, aligned with `score` and `rng`."""

    @classmethod
    def kebab(cls) -> str:
        """The name a user types: `IntegratedGradients` is `integrated-gradients`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()


def require(condition: bool, method: Method, field: str, wanted: str) -> None:
    """Raise ValueError that names the method's field, its value and what would have worked."""
    if not condition:
        raise ValueError(f"{type(method).__name__}.{field}={getattr(method, field)!r}: use {wanted}")


def is_whole(value: Any, least: int) -> bool:
    """Whether a setting is a whole number of `least` or more."""
    return isinstance(value, int | np.integer) and bool(value >= least)


def is_finite(value: Any) -> bool:
    """Whether a setting is a number, neither NaN nor infinite."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def require_whole(method: Method, field: str, least: int) -> None:
    """`require` that the field is a whole number of `least` or more."""
    require(is_whole(getattr(method, field), least), method, field, f"a whole number of {least} or more")


def require_number(method: Method, field: str, fits: Callable[[float], bool], wanted: str) -> None:
    """`require` that the field is a finite number that fits."""
    value = getattr(method, field)
    require(is_finite(value) and fits(value), method, field, wanted)


def require_tolerance(method: Method) -> None:
    """`require` that the field `tolerance` is a positive number or None."""
    if vars(method)["tolerance"] is not None:
        require_number(method, "tolerance", lambda value: value > 0, "a positive number or None")
