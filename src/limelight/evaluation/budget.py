"""The quick checks of a panel within a budget of model rows, spent where it tells most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

from ..base.attribution import Attribution, Panel
from ..base.types import Model
from ..checks import BiasShift, Completeness, Determinism, Randomisation
from ..checks.base import Check
from ..checks.case import open_case
from ..checks.shared import Shared
from ..question.question import Options, Question, question_of
from .check import measure, unmeasured
from .findings import LEFT_OUT, Finding, Findings

QUICK: tuple[Check, ...] = (
    Completeness(),
    Randomisation(stages=1, draws=1),
    BiasShift(levels=(0.2,)),
    Determinism(company=False),
)
"""The checks that `limelight explain` runs within its budget of rows, the most telling for its rows first."""
_DRAWS = 3  # of random classifiers, by whose mean a map fails
LEAST = 1500  # rows that tests may always cost: all of them for a few maps of a few hundred rows


def quick_checks(
    model: Model,
    panel: Mapping[str, Attribution],
    budget: int | None = None,
    checks: tuple[Check, ...] | None = None,
    **options: Unpack[Options],
) -> dict[str, Findings]:
    """Check each map of a panel; findings by the map's name.

    Args:
        budget: model rows, forward and backward, that all checks together may cost; None allows as many as the maps
            took, where passes that a Panel's maps shared count once, and at least 1,500.
        options: `rows_per_pass` and `progress` of `explain`; all else is as the maps were made.

    Each check in turn is made of every map, the cheapest first, before the next check. A randomisation that fails by
    one draw is made again with three, whose mean counts. One that does not fit into the
    budget gives NaN with its price as the reason: the rows of the map times the
    maps that the check makes.
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
    """Run `quick_checks` on the maps of a question."""
    wanted = QUICK if checks is None else checks
    if budget is None:
        budget = max(LEAST, price(panel) if isinstance(panel, Panel) else sum(map(price, panel.values())))
    prices = [
        (round(check.maps() * price(a)) + check.own_rows, name, i)
        for name, a in panel.items()
        for i, check in enumerate(wanted)
    ]
    found: dict[tuple[str, int], Finding] = {}
    spent = 0
    with Shared(several=len(panel) > 1) as shared:
        for cost, name, i in sorted(prices, key=lambda each: (each[2], each[0])):
            attribution = panel[name]
            if spent + cost > budget:
                reason = f"{LEFT_OUT}about {cost} more model evaluations, and {budget - spent} of {budget} remain"
                left_out = unmeasured(len(attribution.inputs), reason)
                found[name, i] = Finding.of(wanted[i], attribution.name, left_out, 0, 0)
                continue
            with open_case(question, attribution, attribution.method, shared=shared) as case:
                found[name, i] = measure(wanted[i], case, exhibits=True)
            spent += max(cost, found[name, i].forward_rows + found[name, i].backward_rows)
        for (name, i), first in list(found.items()):
            again, attribution = _again(wanted[i], first), panel[name]
            cost = 0 if again is None else round(again.maps() * price(attribution)) + again.own_rows
            if again is None or spent + cost > budget:
                continue
            with open_case(question, attribution, attribution.method, shared=shared) as case:
                found[name, i] = measure(again, case, exhibits=True)
            spent += max(cost, found[name, i].forward_rows + found[name, i].backward_rows)
    return {name: Findings(found[name, i] for i in range(len(wanted))) for name in panel}


def _again(check: Check, found: Finding) -> Check | None:
    """Return the check with more draws where it failed by a few, because one random classifier may resemble the true
    one: of 120 photographs Grad-CAM failed 14 by a single draw. None where the finding stands."""
    if not isinstance(check, Randomisation) or found.passed is not False or check.draws >= _DRAWS:
        return None
    return replace(check, draws=_DRAWS)


def price(maps: Attribution | Panel) -> int:
    """Count the model rows that a map or a panel cost, forward and backward, or would have without a cache."""
    return maps.forward_rows + maps.cached_rows + maps.backward_rows
