"""Findings, and their forms as plain values and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base.files import finite
from ..checks.base import Check, HardCheck, Measured
from ..checks.exhibits import Exhibits
from .tables import Table

if TYPE_CHECKING:
    from PIL.Image import Image

LEFT_OUT = "left out: "
"""How the reason begins why a check that exceeds the budget has no figure."""


@dataclass(frozen=True, eq=False)
class Finding:
    """The result of one check on one map.

    `value` `(n,)`: one figure per example, NaN with the reason in `reasons`. `passed`: whether all examples with a
    figure passed, None where no right answer is known or no example has a figure. `each` `(n,)`: whether each example
    passed, False for one without a figure. `limit`: the largest value that passes, None where no right answer is known.
    `detail`: further figures by name. `forward_rows`, `backward_rows`: the cost of the check. `shared_rows`: the rows,
    forward and backward, that it needed too and that other checks of the call had run: alone it would have cost them.
    `exhibits`: what `show` draws, of the first 8 examples: 8-bit pictures and maps as drawn, in no saved file.
    """

    check: Check
    method: str
    value: Tensor
    passed: bool | None
    each: Tensor | None = None
    detail: Mapping[str, Tensor] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    forward_rows: int = 0
    backward_rows: int = 0
    limit: float | None = None
    shared_rows: int = 0
    exhibits: Exhibits = ()

    @staticmethod
    def of(
        check: Check,
        method: str,
        measured: Measured,
        forward_rows: int,
        backward_rows: int,
        limit: float | None = None,
        shared_rows: int = 0,
    ) -> Finding:
        value = measured.values.detach().double().cpu()
        known = ~value.isnan()
        passed, each = None, None
        if measured.passed is not None:
            each = measured.passed.detach().cpu() & known
            passed = bool(each[known].all()) if bool(known.any()) else None
        reasons = measured.reasons or ("",) * len(value)
        unexplained = [i for i in (~known).nonzero()[:, 0].tolist() if not reasons[i]]
        if unexplained:
            raise AssertionError(f"{check!r}: NaN without a reason for example {unexplained}")
        detail = {name: each_one.detach().cpu() for name, each_one in measured.detail.items()}
        rows = forward_rows, backward_rows
        about = measured.notes, *rows, limit, shared_rows, measured.exhibits
        return Finding(check, method, value, passed, each, detail, reasons, *about)

    @property
    def name(self) -> str:
        return self.check.kebab()

    @property
    def mean(self) -> float:
        """The mean over examples with a figure; NaN without any."""
        return float(self.value.nanmean())

    @property
    def reason(self) -> str:
        """Why examples have no figure, each reason once; empty where all have one."""
        return "; ".join(dict.fromkeys(each for each in self.reasons if each))

    @property
    def left_out(self) -> bool:
        """Whether the check was not run for want of budget."""
        return math.isnan(self.mean) and self.reason.startswith(LEFT_OUT)

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: "-"}[self.passed]

    @property
    def sentence(self) -> str:
        """What the figure means, in plain words: of a hard check whether it passed, and why there is none.

        A hard check of several examples fails if one of them fails it; the sentence then counts those that do.
        """
        if self.reason and math.isnan(self.mean):
            return self.reason
        if isinstance(self.check, HardCheck) and self.passed is not None:
            return self.check.passes if self.passed else self.check.fails + self._share_failed()
        return self.check.meaning

    @property
    def brief(self) -> str:
        """What a hard check found in a few words: the mean figure, of a failed one that of the examples that fail."""
        assert isinstance(self.check, HardCheck)
        mean = self.mean if self.passed else float(self.value[self.failed].mean())
        return self.check.brief[not self.passed].format(mean)

    @property
    def failed(self) -> Tensor:
        """Which examples `(n,)` have a figure that does not pass; none where no right answer is known."""
        return torch.zeros_like(self.value, dtype=torch.bool) if self.each is None else ~self.each & ~self.value.isnan()

    def _share_failed(self) -> str:
        """Say how many of several examples failed, where it is not all that have a figure."""
        failed, known = int(self.failed.sum()), int((~self.value.isnan()).sum())
        return f", in {failed} of {known} examples" if 0 < failed < known else ""

    def exhibits_of(self, example: int = 0) -> Exhibits:
        """Return what can be shown of one example. Raises IndexError for a wrong place, ValueError for nothing."""
        if not 0 <= example < len(self.value):
            raise IndexError(f"example: {example} of {len(self.value)}; the first is 0")
        found = tuple(each for each in self.exhibits if example in each.examples)
        if not found:
            raise ValueError(f"show: there is no picture of {self.name} for example {example}: {self._unseen(example)}")
        return found

    def _unseen(self, example: int) -> str:
        """Say why nothing can be shown of an example."""
        kept = {place for each in self.exhibits for place in each.examples}
        if kept:
            return (
                f"{len(kept)} of the {len(self.value)} examples are kept, {min(kept)} to {max(kept)}; "
                "check fewer at once"
            )
        if self.reasons and self.reasons[example]:
            return self.reasons[example]
        return (
            "check() and trust_card() keep pictures, of inputs (batch, channels, H, W), for checks that compare maps "
            "or hide pixels, such as fragility, randomisation, input-shift, bias-shift and deletion"
        )

    def show(self, example: int = 0) -> Image:
        """Draw the pictures behind the figure of one example, all maps on one scale, as a PIL image.

        The attacked picture, the map of the network with layers replaced, the shifted input, the pictures of a removal
        curve and the curve. Pictures are clipped as a display does; the model's inputs were not. Raises ValueError
        where the check keeps none.

            limelight.check(net, x, "gradient", "randomisation")[0].show()
        """
        from ..show.exhibits import draw_findings

        return draw_findings([self], example)

    def save(self, path: str | Path) -> Path:
        """Write the picture of `show` for the first example, as `.png` or `.pdf`."""
        from ..show.exhibits import save_image

        return save_image(self.show(), path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and text; NaN and the infinities as None."""
        return {
            "check": self.name,
            "settings": repr(self.check),
            "kind": self.check.kind,
            "better": self.check.better,
            "meaning": self.check.meaning,
            "sentence": self.sentence,
            "limit": self.limit,
            "method": self.method,
            "value": finite(self.value.tolist()),
            "mean": finite(self.mean),
            "passed": self.passed,
            "passed_each": None if self.each is None else self._passed_each(self.each),
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "detail": {name: finite(value.double().tolist()) for name, value in self.detail.items()},
            "forward_rows": self.forward_rows,
            "backward_rows": self.backward_rows,
            "shared_rows": self.shared_rows,
        }

    def _passed_each(self, each: Tensor) -> list[bool | None]:
        """Return whether each example passed; None for examples without a figure."""
        known = (~self.value.isnan()).tolist()
        return [passed if there else None for passed, there in zip(each.tolist(), known, strict=True)]

    def __repr__(self) -> str:
        figure = self.reason if math.isnan(self.mean) else f"{self.mean:.3g}"
        return f"Finding({self.check!r}, {self.method}: {figure}, {self.verdict})"


class Findings(Table, list[Finding]):
    """The findings of one `check()`, in the order of its checks; a list with table forms."""

    def by_name(self, name: str) -> Finding:
        """Return the first finding of the check of that name. Raises KeyError that lists the names."""
        for each in self:
            if name in (each.name, type(each.check).__name__):
                return each
        raise KeyError(f"{name!r} was not checked; there are {', '.join(each.name for each in self)}")

    @property
    def shown(self) -> Findings:
        """The findings that have something to show."""
        return Findings(each for each in self if each.exhibits)

    def show(self, example: int = 0) -> Image:
        """Draw the pictures behind all figures that have some, one below the other; see `Finding.show`."""
        from ..show.exhibits import draw_findings

        if not self.shown:
            raise ValueError(f"show: none of {', '.join(each.name for each in self) or 'no finding'} has pictures")
        return draw_findings(self.shown, example)

    def save(self, path: str | Path) -> Path:
        """Write the picture of `show` for the first example, as `.png` or `.pdf`."""
        from ..show.exhibits import save_image

        return save_image(self.show(), path)

    def to_dict(self) -> dict[str, Any]:
        return {"findings": [each.to_dict() for each in self]}

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per finding."""
        return [
            {
                "method": each.method,
                "check": each.name,
                "value": each.mean,
                "passed": each.verdict,
                "better": each.check.better or "",
                "what it says": each.reason if math.isnan(each.mean) else each.check.meaning,
            }
            for each in self
        ]

    def _to_read(self) -> list[dict[str, Any]]:
        return self.rows()

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each finding in numbers: the mean over the examples that have a figure, and the cost."""
        return [
            {
                "method": each.method,
                "check": each.name,
                "settings": repr(each.check),
                "value": each.mean,
                "passed": each.passed,
                "limit": each.limit,
                "better": each.check.better,
                "n": int((~each.value.isnan()).sum()),
                "forward_rows": each.forward_rows,
                "backward_rows": each.backward_rows,
                "sentence": each.sentence,
            }
            for each in self
        ]
