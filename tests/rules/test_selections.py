"""Rectifiers and maxima by other names get the rule of what they are, under every method."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.rules import (
    ATTN_LRP,
    CP_LRP,
    DECONVNET,
    DEEPLIFT,
    EXCITATION,
    GUIDED_BACKPROP,
    Propagation,
    UncoveredOperator,
    composite,
    deep_taylor,
    multipliers,
)
from tests.rules.helpers import constant

pytestmark = pytest.mark.quick

Function = Callable[[Tensor], Tensor]
METHODS = [*DEEPLIFT.values(), GUIDED_BACKPROP, DECONVNET, ATTN_LRP, CP_LRP, EXCITATION, deep_taylor()]
METHODS += [composite("epsilon"), composite("epsilon-plus"), composite("epsilon-alpha2-beta1"), composite("gamma")]


def _written(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0
    return y


def _written_by_x(x: Tensor) -> Tensor:
    y = x.clone()
    y[x <= 0] = 0.0
    return y


def _product_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    return y.mul_(y > 0)


def _zero(x: Tensor) -> Tensor:
    return torch.zeros((), dtype=x.dtype)


RELU: dict[str, Function] = {
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill or equal": lambda x: x.masked_fill(x <= 0, 0.0),
    "masked_fill of a tensor": lambda x: x.masked_fill(x < 0, _zero(x)),
    "masked_fill_": lambda x: x.clone().masked_fill_(x < 0, 0),
    "masked_fill of not": lambda x: x.masked_fill(~(x > 0), 0),
    "masked_fill of logical_not": lambda x: torch.masked_fill(x, torch.logical_not(x.gt(0)), 0),
    "x * (x > 0)": lambda x: x * (x > 0),
    "(x > 0) * x": lambda x: (x > 0) * x,
    "x * lt(zeros, x)": lambda x: x * torch.lt(torch.zeros_like(x), x),
    "x * (x > zeros)": lambda x: x * (x > torch.zeros_like(x)),
    "x * (x > 0).to(x)": lambda x: x * (x > 0).to(x),
    "x * x.gt(0).float()": lambda x: x * torch.gt(x, 0).double(),
    "x * x.ge(0).type_as(x)": lambda x: torch.mul(x, x.ge(0).type_as(x)),
    "x * (x.detach() > 0)": lambda x: x * (x.detach() > 0),
    "x * (1 - mask)": lambda x: x * (1 - (x <= 0).double()),
    "mul_": _product_in_place,
    "setitem": _written,
    "setitem by another": _written_by_x,
    "where number": lambda x: torch.where(x > 0, x, 0.0),
    "where zeros": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where below": lambda x: torch.where(x < 0, 0.0, x),
    "method where": lambda x: x.where(x > 0, 0.0),
    "fmax": lambda x: torch.fmax(x, _zero(x)),
    "maximum": lambda x: torch.maximum(x, _zero(x)),
    "maximum of zeros": lambda x: x.maximum(torch.zeros_like(x)),
    "maximum, the other way": lambda x: torch.maximum(torch.zeros_like(x), x),
    "max": lambda x: torch.max(x, _zero(x)),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp by a tensor": lambda x: x.clamp(min=_zero(x)),
}
LEAKY: dict[str, Function] = {
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where, the other way": lambda x: torch.where(x <= 0, x * 0.1, x),
    "where of a quotient": lambda x: torch.where(x > 0, x, x / 10),
    "maximum": lambda x: torch.maximum(x, 0.1 * x),
    "fmax": lambda x: torch.fmax(0.1 * x, x),
}
OTHERS: dict[str, tuple[Function, Function]] = {
    "threshold": (lambda x: F.threshold(x, 0.3, 0.0), lambda x: x * (x > 0.3)),
    "threshold with a value": (lambda x: F.threshold(x, 0.3, -1.0), lambda x: torch.where(x > 0.3, x, -1.0)),
    "clamp below": (lambda x: x.clamp(min=0.2), lambda x: torch.maximum(x, torch.full_like(x, 0.2))),
    "clamp above": (lambda x: x.clamp(max=0.2), lambda x: torch.minimum(x, torch.full_like(x, 0.2))),
    "clamp above by where": (lambda x: x.clamp(max=0.2), lambda x: torch.where(x < 0.2, x, 0.2)),
}
PAIRS = {
    **{f"relu: {name}": (F.relu, f) for name, f in RELU.items()},
    **{f"leaky: {name}": (lambda x: F.leaky_relu(x, 0.1), f) for name, f in LEAKY.items()},
    **OTHERS,
}


def _score(f: Function) -> Function:
    before, after = constant(5, 6, seed=1), constant(6, seed=2)
    return lambda rows: torch.mv(F.linear(f(F.linear(rows, before, constant(5, seed=3))), constant(6, 5)), after)


@pytest.mark.parametrize("propagation", METHODS, ids=lambda each: each.name)
def test_a_rectifier_by_any_name_is_one(propagation: Propagation) -> None:
    x, x0 = constant(7, 6, seed=4), constant(7, 6, seed=5)
    for reference in (x0, x0[:1]) if propagation.needs_reference else (None,):
        given = {} if reference is None else {"reference": reference}
        for name, (named, spelled) in PAIRS.items():
            expected = multipliers(_score(named), x, propagation, **given)
            found = multipliers(_score(spelled), x, propagation, **given)
            assert torch.allclose(found.score, expected.score, rtol=1e-13), name
            assert torch.allclose(found.values, expected.values, rtol=1e-10, atol=1e-12), name
            assert found.notes == expected.notes, name


OUTSIDERS: dict[str, Function] = {
    "another tensor's mask": lambda x: x * (x.roll(1, -1) > 0),
    "its own values": lambda x: x * x.detach(),
    "an interval": lambda x: x * ((x > 0) & (x < 1)),
    "a mask overwritten": lambda x: x * _overwritten(x),
    "equality": lambda x: x.masked_fill(x == 0, 1.0),
    "sign": lambda x: x * x.sign(),
}


def _overwritten(x: Tensor) -> Tensor:
    mask = x > 0
    mask.logical_and_(x < 1)
    return mask


@pytest.mark.parametrize("name", OUTSIDERS)
def test_other_masks_are_refused(name: str) -> None:
    x = constant(3, 6, seed=4)
    for propagation in METHODS:
        given = {"reference": constant(3, 6)} if propagation.needs_reference else {}
        with pytest.raises(UncoveredOperator, match="with a mask or constant"):
            multipliers(_score(OUTSIDERS[name]), x, propagation, **given)


def test_a_value_overwritten_after_the_comparison_is_not_read_as_a_rectifier() -> None:
    def shifted(x: Tensor) -> Tensor:
        y = x.clone()
        mask = y > 0
        y += 1
        return y * mask

    for propagation in METHODS:
        given = {"reference": constant(3, 6)} if propagation.needs_reference else {}
        with pytest.raises(UncoveredOperator, match="mul with a mask"):
            multipliers(_score(shifted), constant(3, 6, seed=4), propagation, **given)


def test_a_constant_condition_is_linear() -> None:
    where = lambda x: torch.where(constant(5) > 0, x, -2 * x)  # noqa: E731
    weights = torch.where(constant(5) > 0, 1.0, -2.0)
    for propagation in METHODS:
        given = {"reference": constant(3, 6)} if propagation.needs_reference else {}
        a, b = (
            multipliers(_score(f), constant(3, 6, seed=4), propagation, **given) for f in (where, lambda x: x * weights)
        )
        assert torch.allclose(a.values, b.values, rtol=1e-9, atol=1e-12)
