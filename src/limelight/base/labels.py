"""Labels of maps: names that differ, and targets in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from .named import Named, text_of

_LONGEST_TARGET = 160  # characters


def target_text(target: Any) -> str:
    """Return a target as text, from which it can be read if possible; of many numbers only how many they are."""
    try:
        text: str | None = text_of(target)
    except ValueError:
        text = None
    if not isinstance(target, Named) or not is_dataclass(target):
        return repr(target) if text is None else text
    if text is not None and len(text) <= _LONGEST_TARGET:
        return text
    held = {each.name: getattr(target, each.name) for each in fields(target) if each.init and each.repr}
    return f"{target.kebab()}({', '.join(f'{name}={_brief(value)}' for name, value in held.items())})"


def _brief(value: Any) -> str:
    return f"{' x '.join(map(str, value.shape))} numbers" if isinstance(value, Tensor) else repr(value)


def names_of(attributions: Sequence[Any]) -> list[str]:
    """Return kebab-case names; methods of the same name get their repr, equal reprs a number."""
    plain = [each.name for each in attributions]
    return distinct(
        name if plain.count(name) == 1 else repr(each.method) for each, name in zip(attributions, plain, strict=True)
    )


def distinct(labels: Iterable[str]) -> list[str]:
    """Add a number to labels that occurred before."""
    found: list[str] = []
    for label in labels:
        found.append(label if label not in found else f"{label} #{len(found)}")
    return found
