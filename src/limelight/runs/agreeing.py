"""How far the maps of each example agree, as columns of the index."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..base.similarity import rank_correlations
from ..evaluation.agreement import of_one_shape
from .rows import Row

AGREEMENT = "agreement"
"""The column of a map's mean rank correlation with the example's other maps that held up."""


def with_method(name: str) -> str:
    """Return the column of the rank correlation with the map of a method."""
    return f"correlation with {name}"


def agreement_columns(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that say how far maps agree; none for a single method."""
    return (AGREEMENT, *map(with_method, methods)) if len(methods) > 1 else ()


def add_agreement(rows: Iterable[Row]) -> None:
    """Compare the maps of each example at the scale they are drawn at, and let go of them.

    Each row gets Spearman's correlation with every other map of its example, and `agreement`, their mean over the
    maps that failed no hard test. A map that is constant, holds NaN or has another shape has no correlation.
    """
    examples: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.seen is not None:
            examples[row.id].append(row)
    for found in examples.values():
        maps, _ = of_one_shape([row.seen[None].double() for row in found if row.seen is not None])
        correlations = rank_correlations(maps)[0].tolist()
        for row, line in zip(found, correlations, strict=True):
            others = {
                other.method: value
                for other, value in zip(found, line, strict=True)
                if other is not row and value == value  # NaN has no place in the index
            }
            held_up = [others[other.method] for other in found if other.method in others and not _failed(other)]
            row.facts |= {with_method(name): value for name, value in others.items()}
            row.facts[AGREEMENT] = sum(held_up) / len(held_up) if held_up else None
            row.seen = None


def _failed(row: Row) -> bool:
    return any(value is False for name, value in row.facts.items() if name.endswith(" passed"))
