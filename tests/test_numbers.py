"""Numbers that no setting can mean: too large for a float or for 64 bits, NaN, infinite."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

import limelight as ll
from limelight.base.named import _REGISTRIES, Named

pytestmark = pytest.mark.quick

SETTINGS = [
    (kind, field.name, field.default)
    for registry in _REGISTRIES
    for kind in registry
    for field in dataclasses.fields(kind)
    if field.init
]
NUMBERS = [(kind, name) for kind, name, default in SETTINGS if type(default) in (int, float)]
DATA: dict[type[Named], dict[str, Any]] = {ll.Samples: {"data": torch.zeros(2, 3)}, ll.Frequencies: {"p": (0.5, 0.5)}}
TOO_LARGE = (10**400, -(10**400), 2**63, -(2**63) - 1, 10**5000)
NOT_FINITE = (math.nan, math.inf, -math.inf)


def made(kind: type[Named], field: str, value: Any) -> Named:
    if kind in DATA:
        return kind(**{**DATA[kind], field: value})
    others = {each.name: None for each in dataclasses.fields(kind) if each.init and not _has_default(each)}  # type: ignore[arg-type]
    return kind(**{**others, field: value})


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


@pytest.mark.parametrize(("kind", "field"), [each[:2] for each in SETTINGS], ids=str)
def test_a_whole_number_beyond_64_bits_is_refused_by_every_setting(kind: type[Named], field: str) -> None:
    for number in TOO_LARGE:
        for value in (number, (1, number), [[number]]):
            with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{field}=.*: use a number below 2\*\*63$"):
                made(kind, field, value)


@pytest.mark.parametrize(("kind", "field"), NUMBERS, ids=str)
def test_a_number_that_is_not_finite_is_refused_by_every_setting(kind: type[Named], field: str) -> None:
    for number in NOT_FINITE:
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.{field}={number}"):
            made(kind, field, number)


def test_long_numbers_are_written_by_their_size() -> None:
    with pytest.raises(ValueError, match=r"^SmoothGrad\.noise=1e\+400: use a number below 2\*\*63$"):
        ll.SmoothGrad(noise=10**400)
    with pytest.raises(ValueError, match=r"^XRAI\.scales=\(50\.0, -1e\+5000\): use"):
        ll.XRAI(scales=(50.0, -(10**5000)))


@pytest.mark.parametrize("text", ["smooth-grad(noise=1e999)", "grid([4, 1e400])", f"rise({10**400})"])
def test_text_with_such_a_number_is_refused(text: str) -> None:
    registry = ll.METHODS if not text.startswith("grid") else ll.PLAYERS
    with pytest.raises(ValueError):
        registry.read(text)
