"""Rectifiers and maxima by other names: `x * (x > 0)`, `x.masked_fill(x < 0, 0)`, `where(a > b, a, b)`, `max(x, 0)`.

A mask that a comparison made remembers what was compared. Where it then selects between those very values, the call is
read as the ReLU, leaky ReLU, threshold, maximum or minimum that it is, and gets that operator's rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call, active
from .names import words

# comparison -> whether its first argument is the greater one where the mask is set
_COMPARISONS = {
    **dict.fromkeys(words("gt ge greater greater_equal"), True),
    **dict.fromkeys(words("lt le less less_equal"), False),
}
_NEGATIONS = words("logical_not bitwise_not invert")
_CASTS = words("to float double half bfloat16 type type_as clone contiguous detach bool")
_SELECTING = words("where masked_fill mul setitem")


@dataclass(frozen=True, eq=False)
class Comparison:
    """A mask that is set where `high` exceeds `low`; `versions` tell whether any of them was overwritten since."""

    mask: Tensor
    high: Any
    low: Any
    versions: tuple[int | None, ...]

    @property
    def holds(self) -> bool:
        return self.versions == tuple(map(_version, (self.mask, self.high, self.low)))


@dataclass(frozen=True)
class Term:
    """One side of a selection: a tensor or a number, with its value in the reference run."""

    value: Any
    reference: Any = None


class Comparisons:
    """The masks of one pass that comparisons of numbers made."""

    def __init__(self) -> None:
        self._found: dict[int, Comparison] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def clear(self) -> None:
        self._found.clear()

    def see(self, call: Call, result: Any) -> None:
        """Record the mask that this call made, if it is one."""
        if not isinstance(result, Tensor) or call.in_place:
            return
        first = call.args[0] if call.args else None
        known = self._found.get(id(first))
        if call.name in _COMPARISONS and isinstance(first, Tensor) and first.is_floating_point():
            other = call.args[1] if len(call.args) > 1 else call.kwargs.get("other")
            high, low = (first, other) if _COMPARISONS[call.name] else (other, first)
            self._record(result, high, low)
        elif known is not None and (call.name in _NEGATIONS or _is_complement(call)):
            self._record(result, known.low, known.high)
        elif known is not None and call.name in _CASTS:
            self._record(result, known.high, known.low)

    def _record(self, mask: Tensor, high: Any, low: Any) -> None:
        self._found[id(mask)] = Comparison(mask, high, low, tuple(map(_version, (mask, high, low))))

    def selects(self, call: Call) -> bool:
        """Whether the call selects by such a mask, in the reference run as in the input's."""
        return call.name in _SELECTING and any(id(value) in self._found for value in call.args)

    def read(self, call: Call) -> Call | None:
        """Return the operator that a selection is, as a call that writes nothing; None where it is no other."""
        at = next((i for i, value in enumerate(call.args) if id(value) in self._found), None)
        if at is None:
            return None
        mask, given = self._found[id(call.args[at])], dict(zip(call.positions, call.reference, strict=False))

        def term(position: int) -> Term:
            value = call.args[position]
            return Term(value, given.get(position, value))

        if call.name == "where" and len(call.args) == 3 and at == 0:
            chosen, other = term(1), term(2)
        elif call.name in ("masked_fill", "setitem") and len(call.args) == 3 and at == 1 and not active(call.args[2]):
            chosen, other = term(2), term(0)
        elif call.name == "mul" and len(call.args) == 2:
            chosen, other = term(1 - at), Term(0, 0)
        else:
            return None
        if not mask.holds or tuple(call.args[at].shape) != _shape(chosen.value, other.value):
            return None
        return _read(mask.high, mask.low, chosen, other)


def _read(high: Any, low: Any, chosen: Term, other: Term) -> Call | None:
    """Read `chosen where high > low, else other`."""
    if _same(high, chosen.value) and _same(low, other.value):
        return _pair("maximum", torch.maximum, chosen, other)
    if _same(low, chosen.value) and _same(high, other.value):
        return _pair("minimum", torch.minimum, chosen, other)
    for x, bound, kept, left, above in (
        (high, low, chosen, other, True), (low, high, other, chosen, True),
        (low, high, chosen, other, False), (high, low, other, chosen, False),
    ):  # fmt: skip
        if not (isinstance(x, Tensor) and _is_constant(bound) and _same(x, kept.value)):
            continue
        found = _kinked(kept, bound, left.value, above)
        if found is not None:
            return found
    return None


def _kinked(x: Term, bound: Any, left: Any, above: bool) -> Call | None:
    """Read x where it is above the bound (or below it), and `left` elsewhere."""
    slope = multiple(x.value, left)
    if slope is not None and _is(bound, 0):
        sign = 1 if above else -1  # kept below 0: no rectifier, but one of -x, negated, as clamp(max=0) is
        return _unary("leaky_relu" if above else "clamp_max", lambda t: sign * F.leaky_relu(sign * t, slope), x)
    if not _is_constant(left):
        return None
    side = torch.gt if above else torch.lt
    return _unary("threshold" if above else "clamp_max", lambda t: t.where(side(t, bound), left), x)


def _pair(name: str, func: Callable[..., Any], first: Term, second: Term) -> Call:
    like = next(each.value for each in (first, second) if isinstance(each.value, Tensor) and each.value.ndim)
    values = [torch.as_tensor(each.value, dtype=like.dtype, device=like.device) for each in (first, second)]
    references = (torch.as_tensor(each.reference, dtype=like.dtype, device=like.device) for each in (first, second))
    return Call(name, func, tuple(values), {}, False, tuple(references))


def _unary(name: str, func: Callable[..., Any], x: Term) -> Call:
    return Call(name, func, (x.value,), {}, False, (x.reference,))


def elementwise(call: Call) -> Call:
    """Return a maximum or minimum with a constant, or with a multiple of itself, as the activation that it is."""
    if call.kind != "maximum":
        return call
    references = call.reference or (None, None)
    first, second = (Term(*each) for each in zip(call.operands, references, strict=True))
    x, bound = (first, second) if active(first.value) else (second, first)
    whole = torch.broadcast_shapes(x.value.shape, bound.value.shape)
    largest = call.name in ("maximum", "max")
    if x.value.shape != whole:
        return call
    if not active(bound.value):
        if largest and _is(bound.value, 0):
            return _unary("relu", torch.relu, x)
        limit, func = bound.value, torch.maximum if largest else torch.minimum
        return _unary("clamp_min" if largest else "clamp_max", lambda t: func(t, limit), x)
    for one, other in ((first, second), (second, first)):
        slope = multiple(one.value, other.value)
        if slope is not None and slope <= 1 and largest:
            return _unary("leaky_relu", lambda t, slope=slope: F.leaky_relu(t, slope), one)
    return call


def complement(call: Call, made: Any) -> Call:
    r"""Return $1 - \sigma(z)$ as the $\sigma(-z)$ that it is: its 1 is no bias, which would take relevance.

    `made` is what produced the sigmoid.
    """
    if made is None or made.call.name != "sigmoid" or not _is_complement(call):
        return call
    z = made.call.args[0]
    if made.call.in_place or not torch.equal(torch.sigmoid(z.detach()), made.output.detach()):  # z was overwritten
        return call
    return Call("sigmoid", lambda z: torch.sigmoid(-z), (z,), {}, False)


def _is_complement(call: Call) -> bool:
    return call.name == "rsub" and len(call.args) == 2 and not call.kwargs and _is(call.args[1], 1)


def multiple(x: Any, y: Any) -> float | None:
    """Return s where y was computed as s x, with a number s; else None."""
    if not (active(x) and active(y) and x.shape == y.shape):
        return None
    name, factor = y.grad_fn.name() if y.grad_fn else "", getattr(y.grad_fn, "_saved_other", None)
    if name not in ("MulBackward0", "DivBackward0") or not isinstance(factor, Tensor) or factor.numel() != 1:
        return None
    slope = float(factor) if name == "MulBackward0" else 1 / float(factor)
    scaled = x.detach() * float(factor) if name == "MulBackward0" else x.detach() / float(factor)
    return slope if torch.equal(scaled, y.detach()) else None


def _version(value: Any) -> int | None:
    return value._version if isinstance(value, Tensor) else None


def _shape(*values: Any) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*(value.shape for value in values if isinstance(value, Tensor))))


def _is_constant(value: Any) -> bool:
    return not active(value) and (not isinstance(value, Tensor) or value.numel() == 1 or _is(value, value.flatten()[0]))


def _is(value: Any, number: Any) -> bool:
    """Whether a constant is this number everywhere."""
    return not active(value) and bool((torch.as_tensor(value) == number).all())


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same: one tensor, equal tensors, or a number and a constant of it."""
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
        return torch.equal(one.detach(), other.detach())
    if active(one) or active(other):
        return False
    return _is_constant(one) and _is_constant(other) and _number(one) == _number(other)


def _number(value: Any) -> float:
    return float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
