"""The quick tests of a panel, within a budget of model rows: the cheapest first, the rest named with their price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from ..base.attribution import Attribution, Panel
from ..base.types import Model
from ..checks import BiasShift, Completeness, Determinism, Randomisation
from ..checks.base import Check, Measured
from ..checks.case import open_case
from ..question.question import Options, Question, question_of
from .check import measure
from .findings import Finding, Findings, nan_like

QUICK: tuple[Check, ...] = (
    Completeness(),
    Determinism(company=False),
    Randomisation(stages=1, draws=1),
    BiasShift(),
)
"""What `limelight explain` runs within its budget of rows."""


def quick_checks(
    model: Model,
    panel: Mapping[str, Attribution],
    budget: int | None = None,
    checks: tuple[Check, ...] | None = None,
    **options: Unpack[Options],
) -> dict[str, Findings]:
    """Findings for each map of a panel, by name.

    Args:
        budget: model rows that all of them together may cost, forward and backward; None allows as many as the maps
            themselves took, passes that a Panel's maps shared counted once.
        options: `rows_per_pass` and `progress` of `explain`; all else is as the maps were made.

    A check that no longer fits is a NaN whose reason is its price: what the map took times the maps that the check
    makes, known before it runs.
    """
    if not panel:
        return {}
    with question_of(model, next(iter(panel.values())).inputs, options) as question:
        return quick_findings(question, panel, budget, checks)


def quick_findings(
    question: Question,
    panel: Mapping[str, Attribution],
    budget: int | None = None,
    checks: tuple[Check, ...] | None = None,
) -> dict[str, Findings]:
    """`quick_checks` of the maps that answer a question."""
    asked = QUICK if checks is None else checks
    allowed = _rows(panel) if budget is None else budget
    offers = sorted(
        ((round(check.maps() * price(a)), name, i) for name, a in panel.items() for i, check in enumerate(asked)),
        key=lambda offer: offer[0],
    )
    found: dict[tuple[str, int], Finding] = {}
    spent = 0
    for cost, name, i in offers:
        attribution = panel[name]
        if spent + cost > allowed:
            reason = f"left out: about {cost} more rows, and {allowed - spent} of {allowed} remain"
            nothing = Measured(nan_like(len(attribution.inputs)), reasons=(reason,) * len(attribution.inputs))
            found[name, i] = Finding.of(asked[i], attribution.name, nothing, 0, 0)
            continue
        with open_case(question, attribution, attribution.method) as case:
            found[name, i] = measure(asked[i], case)
        spent += max(cost, found[name, i].forward_rows + found[name, i].backward_rows)
    return {name: Findings(found[name, i] for i in range(len(asked))) for name in panel}


def _rows(panel: Mapping[str, Attribution]) -> int:
    if isinstance(panel, Panel):
        return panel.forward_rows + panel.backward_rows
    return sum(map(price, panel.values()))


def price(attribution: Attribution) -> int:
    """Model rows that another map like this one costs, forward and backward."""
    return attribution.forward_rows + attribution.backward_rows
