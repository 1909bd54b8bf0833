"""The result for inputs of several parts: a map for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attribution import Attribution
from .notes import Note


@dataclass(frozen=True, eq=False)
class SeveralAttributions:
    """A map for each explained part of the inputs, in the structure that they were given in.

    `each`: the part's Attribution by name, or by place as "0", "1", ...; `found["image"]` and `found[0]` give one.
    `whole`: the parts side by side, `(batch, features)`, where one map was made of all; None where each part was
    explained by itself, beside the others as they are. The units of a layer (`AtLayer`) belong to no part: `each` is
    empty, and `values` and `stderr` are the layer's.
    """

    each: Mapping[str, Attribution]
    named: bool
    whole: Attribution | None = None

    def __getitem__(self, part: str | int) -> Attribution:
        if str(part) not in self.each:
            raise KeyError(f"{part!r}; the explained parts are {', '.join(map(repr, self.each))}")
        return self.each[str(part)]

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.each.values())

    def _structure(self, of: Mapping[str, Any]) -> Any:
        return dict(of) if self.named else tuple(of.values())

    @property
    def of_any(self) -> Attribution:
        """The attribution that tells what all parts share: the question, the score, the method."""
        return self.whole if self.whole is not None else next(iter(self.each.values()))

    @property
    def values(self) -> Any:
        """The maps in the structure of the inputs: a tuple, or a dictionary by name."""
        if not self.each:
            return self.of_any.values
        return self._structure({name: part.values for name, part in self.each.items()})

    @property
    def stderr(self) -> Any:
        """The values' standard errors in the structure of the inputs; None where the method has none."""
        if self.of_any.stderr is None or not self.each:
            return self.of_any.stderr
        return self._structure({name: part.stderr for name, part in self.each.items()})

    @property
    def score(self) -> Tensor:
        """f(x), one number for each example."""
        return self.of_any.score

    @property
    def baseline_score(self) -> Tensor:
        """The mean f(b) over references."""
        return self.of_any.baseline_score

    @property
    def delta(self) -> Tensor:
        """The sum over all parts minus (score - baseline_score); NaN where no sum over them is promised."""
        return self.of_any.delta if self.whole is not None else torch.full_like(self.of_any.score, torch.nan)

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes on all parts, each once."""
        found = [self.whole] if self.whole is not None else list(self.each.values())
        return tuple(dict.fromkeys(note for each in found for note in each.notes))

    @property
    def cautions(self) -> tuple[Note, ...]:
        """The notes that limit the trust in the maps."""
        return tuple(note for note in self.notes if note.is_caution)

    @property
    def name(self) -> str:
        """The method's name as typed."""
        return self.of_any.name

    @property
    def forward_rows(self) -> int:
        return self.whole.forward_rows if self.whole is not None else sum(each.forward_rows for each in self)

    @property
    def backward_rows(self) -> int:
        return self.whole.backward_rows if self.whole is not None else sum(each.backward_rows for each in self)
