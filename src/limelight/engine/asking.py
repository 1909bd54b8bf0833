"""Functions that are no modules, as one run asks them: with the cache of a black box."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from ..base.notes import Note
from ..base.types import Model
from ..models.black_box import BlackBox
from .carried import is_alone
from .randomness import run_without_draws


class Asking:
    """A model that is called for rows and draws no random numbers; counts what the cache of a black box answers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cached = 0  # rows of the last call
        self._occasion = ""
        self.notes: tuple[Note, ...] = model.notes if isinstance(model, BlackBox) else ()

    def __call__(self, rows: Tensor) -> Any:
        if not isinstance(self._model, BlackBox):
            return run_without_draws(self._model, rows)
        if self._model.cache is not None and not is_alone():
            raise ValueError("given: a BlackBox with a cache keeps answers by their rows; bind it in the function")
        answer = self._model.answer(rows, partial(run_without_draws, self._model.ask), self._occasion)
        self._cached = answer.cached
        return answer.outputs

    def take_cached(self) -> int:
        """Return how many rows of the last call the cache answered; 0 when asked once more."""
        cached, self._cached = self._cached, 0
        return cached

    @contextmanager
    def on(self, occasion: str) -> Iterator[None]:
        """Ask on purpose for rows that were asked before, until this ends: a cache keeps each occasion's answers."""
        self._occasion = occasion
        try:
            yield
        finally:
            self._occasion = ""
