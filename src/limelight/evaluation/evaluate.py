"""evaluate(): compare methods with each other and with controls, with intervals over the examples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from ..base.errors import NotApplicable, reason
from ..base.files import finite
from ..base.labels import distinct
from ..base.types import Model
from ..by_length import Group
from ..checks.base import Check
from ..checks.case import open_case
from ..checks.shared import Shared
from ..explain import MethodLike
from ..question.question import CheckOptions
from .check import REFUSALS, ChecksLike, as_checks, examination, examined, measure, unmeasured
from .controls import CONTROLS, Control, SobelEdges
from .findings import Finding
from .tables import Table, latex, latex_text
from .texts import joined_finding, options_of, several_lengths, subject_of

RESAMPLES = 2000
LEVEL = 0.95
EDGES = SobelEdges.kebab()


@dataclass(frozen=True)
class Cell:
    """One method under one check: the mean over `n` examples with a figure and its bootstrap 95% interval.

    `beats_edges`: whether the whole interval of the paired difference to the Sobel control is on the better side;
    None for the controls, for checks without a better side and for too few examples.
    """

    finding: Finding
    mean: float
    low: float
    high: float
    n: int
    beats_edges: bool | None

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        text = f"{self.mean:.3g}"
        if not math.isnan(self.low):
            text += f" [{self.low:.3g}, {self.high:.3g}]"
        if self.finding.check.kind == "hard":
            return f"{text} {self.finding.verdict}"
        return text + (" not above edges" if self.beats_edges is False else "")

    def to_latex(self) -> str:
        """Return the cell in LaTeX: see `Evaluation.to_latex`."""
        if math.isnan(self.mean):
            return "--"
        mean = latex_text(f"{self.mean:.3g}")
        bold = rf"\mathbf{{{mean}}}" if self.beats_edges else mean
        ends = "" if math.isnan(self.low) else rf"_{{-{self.mean - self.low:.2g}}}^{{+{self.high - self.mean:.2g}}}"
        verdict = f" {self.finding.verdict}" if self.finding.check.kind == "hard" else ""
        return f"${bold}{ends}$" + latex_text(verdict)

    def numbers(self) -> dict[str, Any]:
        """Return the figures by name, without the finding."""
        names = ("mean", "low", "high", "n", "beats_edges")
        return {name: getattr(self, name) for name in names}


class Evaluation(Table, Mapping[str, Mapping[str, Cell]]):
    """Methods x checks. `evaluation[method][check]` is a Cell; the controls come last.

    There is no overall ranking, because measures of faithfulness disagree with each other.
    """

    def __init__(self, cells: dict[str, dict[str, Cell]], controls: Sequence[str], refused: Mapping[str, str]) -> None:
        self._cells = cells
        self.controls = tuple(controls)
        self.refused = dict(refused)

    def __getitem__(self, method: str) -> Mapping[str, Cell]:
        return self._cells[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def checks(self) -> tuple[str, ...]:
        return tuple(next(iter(self._cells.values()), {}))

    def ranking(self, check: str) -> list[tuple[str, Cell]]:
        """Rank methods and controls by one check, the better first; without a figure last."""
        found = [(method, cells[check]) for method, cells in self._cells.items()]
        sign = -1 if found and found[0][1].finding.check.better == "higher" else 1
        return sorted(found, key=lambda each: (math.isnan(each[1].mean), sign * each[1].mean))

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per method, its cells as text."""
        return [
            {"method": f"({name})" if name in self.controls else name}
            | {check: str(cell) for check, cell in cells.items()}
            for name, cells in self._cells.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers: for each method and check the figures, the interval and the finding."""
        return {
            "controls": list(self.controls),
            "refused": dict(self.refused),
            "methods": {
                name: {
                    check: finite(cell.numbers()) | {"finding": cell.finding.to_dict()} for check, cell in cells.items()
                }
                for name, cells in self._cells.items()
            },
        }

    def _to_read(self) -> list[dict[str, Any]]:
        return self.rows()

    def records(self) -> list[dict[str, Any]]:
        """Return a row per method and check, in numbers."""
        return [
            {"method": name, "check": check}
            | cell.numbers()
            | {"passed": cell.finding.passed, "better": cell.finding.check.better, "control": name in self.controls}
            for name, cells in self._cells.items()
            for check, cell in cells.items()
        ]

    def to_markdown(self) -> str:
        """Return a Markdown table, and what was not evaluated."""
        refused = [f"- {name}: {reason}" for name, reason in self.refused.items()]
        return super().to_markdown() + ("\nNot evaluated:\n" + "\n".join(refused) + "\n" if refused else "")

    def to_latex(self) -> str:
        r"""Return a LaTeX `tabular` with the rules of the package `booktabs` (`\usepackage{booktabs}`), text escaped.

        A cell is the mean with the distances to the ends of its 95% interval above and below, such as
        `$0.21_{-0.03}^{+0.04}$`; bold where the method is better than the Sobel edges over the whole interval of the
        paired difference, `beats_edges`. An arrow in the head of a column points to the better side. Controls come
        last, below a rule. What was not evaluated follows as comments.
        """
        arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}
        first = next(iter(self._cells.values()), {})
        heads = {check: latex_text(check) + arrows[cell.finding.check.better] for check, cell in first.items()}
        rows = [
            {"method": latex_text(name)} | {heads[check]: cell.to_latex() for check, cell in cells.items()}
            for name, cells in self._cells.items()
        ]
        notes = [f"not evaluated: {latex_text(f'{name}: {reason}')}" for name, reason in self.refused.items()]
        if any(cell.beats_edges for cells in self._cells.values() for cell in cells.values()):
            notes = [f"bold: better than {EDGES} over the whole 95\\% interval of the paired difference", *notes]
        return latex(rows, notes, [len(self) - len(self.controls)] if self.controls else ())

    def __repr__(self) -> str:
        return f"Evaluation({len(self)} methods, controls included, x {', '.join(self.checks)})"


def evaluate(
    model: Model,
    inputs: Tensor,
    methods: Iterable[MethodLike] | MethodLike,
    checks: ChecksLike,
    **options: Unpack[CheckOptions],
) -> Evaluation:
    """Run checks on several methods and on three controls: a random map, a constant one, the picture's Sobel edges.

    Intervals are percentiles of a bootstrap over the examples with 2,000 samples drawn by the seed. A method that
    cannot explain this model, or a control that does not fit the inputs, is listed in `refused` with the reason. A
    picture that several checks or maps ask for is scored once, and the networks that checks compare with are made once:
    `shared_rows` of a finding are the rows that this saved it. The options are those of `check`.
    """
    wanted = as_checks(checks)
    single = isinstance(methods, str | type) or not isinstance(methods, Iterable)
    everything: list[MethodLike] = [methods] if single else list(methods)  # type: ignore[list-item, arg-type]
    if not everything:
        raise ValueError("methods: an empty sequence; name at least one method")
    groups, _ = several_lengths(model, inputs, options)
    if groups:
        parts = []
        for group in groups:
            texts: Any = group.texts
            own = [subject_of(group, each) for each in everything]
            parts.append(_measured(model, texts, own, wanted, options_of(group, options)))
        measured = [_joined_maps([part[k] for part in parts], wanted, groups) for k in range(len(parts[0]))]
    else:
        measured = _measured(model, inputs, everything, wanted, options, alone=len(everything) == 1)
    findings: dict[str, dict[str, Finding]] = {}
    refused: dict[str, str] = {}
    controls: list[str] = []
    labels = (*map(_label, everything), *(each.kebab() for each in CONTROLS))
    for position, (label, each) in enumerate(zip(labels, measured, strict=True)):
        control = position >= len(everything)
        if each.error is not None:
            if not control and len(everything) == 1:
                raise each.error
            refused[label] = reason(each.error)
            continue
        name = _another(each.name if each.name not in findings else each.settings, findings)
        controls += [name] if control else []
        findings[name] = {column_of(check, wanted): found for check, found in zip(wanted, each.findings, strict=True)}
    seed = options.get("seed", 0)
    edges = findings.get(EDGES, {})
    cells = {
        name: {
            check: _cell(finding, None if name in controls else edges.get(check), seed)
            for check, finding in by_check.items()
        }
        for name, by_check in findings.items()
    }
    return Evaluation(cells, controls, refused)


@dataclass(frozen=True, eq=False)
class _Map:
    """The findings of one map, or the error with which its method refused."""

    name: str = ""
    settings: str = ""
    findings: tuple[Finding, ...] = ()
    error: BaseException | None = None


def _measured(
    model: Model,
    inputs: Tensor,
    methods: Sequence[MethodLike],
    checks: Sequence[Check],
    options: CheckOptions,
    alone: bool = False,
) -> list[_Map]:
    """Check the maps of the methods and of the controls; raise what a method refuses with if it is `alone`."""
    measured: list[_Map] = []
    with examination(model, inputs, options) as (question, mask), Shared(several=True) as shared:
        for method in (*methods, *CONTROLS):
            try:
                if isinstance(method, Control) and (why := method.unfit(question)):
                    raise NotApplicable(why)
                attribution, again = examined(question, method)
            except REFUSALS as error:
                if alone and not measured:
                    raise
                measured.append(_Map(error=error))
                continue
            with open_case(question, attribution, again, mask, shared) as case:
                found = tuple(measure(each, case) for each in checks)
            measured.append(_Map(attribution.name, repr(attribution.method), found))
    return measured


def _joined_maps(parts: Sequence[_Map], checks: Sequence[Check], groups: Sequence[Group]) -> _Map:
    """Join the findings on texts of each length; those of a length that the method refuses have no figure."""
    done = [each for each in parts if each.error is None]
    if not done:
        return parts[0]
    columns = []
    for k, check in enumerate(checks):
        column = []
        for part, group in zip(parts, groups, strict=True):
            if part.error is None:
                column.append(part.findings[k])
            else:
                nothing = unmeasured(len(group.index), reason(part.error))
                column.append(Finding.of(check, done[0].name, nothing, 0, 0))
        columns.append(joined_finding(groups, column))
    return _Map(done[0].name, done[0].settings, tuple(columns))


def _label(method: MethodLike) -> str:
    if isinstance(method, str):
        return method
    return method.kebab() if isinstance(method, type) else repr(method)


def _another(name: str, taken: Mapping[str, Any]) -> str:
    """Return `name`, with a number where it is taken: finished maps have no settings that distinguish them."""
    several = (f"{name} ({number})" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], several) if each not in taken)


def column_of(check: Check, checks: Sequence[Check]) -> str:
    """Return the check's name, or its whole repr where several of `checks` have that name, numbered if equal."""
    same = [each for each in checks if each.kebab() == check.kebab()]
    if len(same) == 1:
        return check.kebab()
    names = distinct(map(repr, same))  # a repr has the size of a large tensor, not its numbers
    return next((name for name, each in zip(names, same, strict=True) if each is check), repr(check))


def _cell(finding: Finding, edges: Finding | None, seed: int) -> Cell:
    known = finding.value[~finding.value.isnan()]
    low, high = interval(known, seed)
    beats = None
    if edges is not None and finding.check.better is not None:
        both = finding.value - edges.value
        both = both[~both.isnan()] * (1 if finding.check.better == "higher" else -1)
        if len(both) > 1:
            beats = interval(both, seed)[0] > 0
    return Cell(finding, finding.mean if len(known) else math.nan, low, high, len(known), beats)


def interval(values: Tensor, seed: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the bootstrap's percentile interval of the mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    drawn = torch.from_numpy(np.random.default_rng(seed).integers(0, n, (RESAMPLES, n)))
    means = values.double().cpu()[drawn].mean(1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high
