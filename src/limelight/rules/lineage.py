"""How tensors came about, so that a rule sees what a model computes and not how it is spelled.

- What is computed position by position from one tensor alone is one activation of that tensor: GELU or a hard swish
  written out, `1 / (1 + exp(-x))`. Constants are numbers, or tensors that only scale; adding a tensor is a layer's
  bias and starts anew.
- A product with a reciprocal (`rsqrt`, `1 / ..`, a negative power; also moved, scaled, cast, to a root) is a quotient.
- `exp(u) / exp(u).sum(dim)` is a softmax of u, and `exp(u).sum(dim).log()` a logsumexp; a maximum that was subtracted
  first changes nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .call import Call, active
from .names import DROPOUTS, POWERS, words
from .origins import At, Chain, Exponential, Function, Normal, Origin, Shifted, Total

_INVERSE = words("rsqrt reciprocal rdiv")
_CLAMPS = words("clamp clamp_min clamp_max")  # of a statistic
_MONOTONE = _CLAMPS | words("sqrt abs square")  # of a reciprocal: still one
_OTHER = {"softmax": "log", "log_softmax": "exp"}  # what makes a softmax its logarithm and back
_LONGEST = 64  # operators that one activation may run; a longer one continues as another
# Operators that change no number (but for its sign or type) where they keep the shape.
_SAME = DROPOUTS | words("""
    clone contiguous to float double half bfloat16 type type_as alias positive neg view reshape view_as reshape_as
    flatten expand expand_as broadcast_to squeeze
""")
# Operators that only move numbers, or fill in constants.
_MOVES = _SAME | words("""
    unsqueeze unflatten permute transpose t swapaxes swapdims moveaxis movedim repeat tile repeat_interleave getitem
    select narrow index_select gather chunk split unbind masked_fill cat stack flip roll diag diag_embed
""")
_IN_ORDER = words("unsqueeze view reshape view_as reshape_as unflatten getitem")


_UNKNOWN = Origin()


class Lineage:
    """The origins of the tensors of one pass, each valid until something writes into the tensor.

    `fuses`: whether activations written out become one call; rules that need a reference find it among the operands
    that were recorded.
    """

    def __init__(self, fuses: bool, with_reference: bool) -> None:
        self.fuses, self.with_reference = fuses, with_reference
        self._origins: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._references: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Origin:
        version, origin = self._origins.get(tensor, (None, _UNKNOWN))
        return origin if version == tensor._version else _UNKNOWN

    @property
    def used(self) -> bool:
        return self.fuses or self.with_reference

    def is_maximum(self, tensor: Tensor) -> bool:
        """Whether this is a maximum of activations, which models detach to subtract it.

        It is then taken as it is: a softmax's multipliers sum to 0, so that it gets none, and elsewhere it counts.
        """
        return self.of(tensor).maximum_of is not None

    def learn(self, result: Any, origin: Origin) -> None:
        """Keep what is known of an operator's result (the first, where it has several)."""
        tensor = result[0] if isinstance(result, tuple) and result else result
        if origin is not _UNKNOWN and isinstance(tensor, Tensor):
            self._origins[tensor] = tensor._version, origin

    def clear(self) -> None:
        self._origins.clear()
        self._references.clear()

    def moved(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
        """Learn of an operator that only moves, casts or negates numbers."""
        x = args[0] if args else None
        if not self.used or name not in _MOVES:
            return
        if isinstance(x, (tuple, list)):  # put side by side
            if all(isinstance(each, Tensor) and self.of(each).reciprocal for each in x):
                self.learn(result, Origin(reciprocal=True))
            return
        if not isinstance(x, Tensor) or not active(x):
            return
        known = self.of(x)
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(part, Tensor) or part is x:
                continue
            chain = None
            before = self._chain(x, known)
            told = not self.with_reference or self._reference(before) is not None
            if name in _SAME and part.shape == x.shape and told:
                run = lambda t, before=before: func(before.run(t), *args[1:], **kwargs)  # noqa: E731
                chain = _kept(replace(before, run=run, length=before.length + 1))
            total = _moved(name, args, part, known.total)
            maximum = None if name == "neg" else known.maximum_of
            if chain is not None or known.reciprocal or total is not None or maximum is not None:
                self.learn(part, Origin(chain, known.reciprocal, total=total, maximum_of=maximum))

    def read(self, call: Call) -> tuple[Call, Origin]:
        """Return the call that rules are to see, and what will be known of its result."""
        if not self.used:
            return call, _UNKNOWN
        if self.fuses and call.reference:
            for operand, reference in zip(call.operands, call.reference, strict=True):
                self._references[operand] = operand._version, reference
        if call.kind == "activation" and len(call.operands) == 1:
            return self._activation(call)
        if call.name in ("add", "sub", "rsub", "mul", "div") and call.kind not in ("refused", "unknown"):
            varying = sum(map(active, call.operands))
            return self._with_constant(call) if varying == 1 else self._with_another(call)
        if call.kind == "product":
            return self._product(call)
        return call, self._reduced(call)

    # One operand -----------------------------------------------------------------------------------------------

    def _chain(self, x: Tensor, known: Origin) -> Chain:
        return known.chain or Chain(x, x._version, lambda t: t)

    def _activation(self, call: Call) -> tuple[Call, Origin]:
        (x,) = call.operands
        known = self.of(x)
        if call.name == "log" and known.total is not None and not known.total.reciprocal:
            written = self._softmax(call, known.total, "logsumexp")
            if written is not None:
                return written, _UNKNOWN
        other = known.normal
        if other is not None and call.name == _OTHER.get(other.name) and other.x.valid:
            return self._other_softmax(other), _UNKNOWN
        before = self._chain(x, known)
        inverse = call.name in _INVERSE or (call.name == "pow" and _negative(call.args[1]))
        kept = known.reciprocal and (call.name in _MONOTONE or (call.name == "pow" and not inverse))
        after = self._after(call, before, lambda t: call.run(before.run(t)), bent=True, scaled=False)
        after = replace(
            after,
            exponential=call.name == "exp",
            arithmetic=before.arithmetic and (call.name in POWERS or (before.bent and call.name in _CLAMPS)),
        )
        # 1 / (1 + exp(-x)) is a gate and 1 / exp(x) is exp(-x): activations, and no scales.
        origin = Origin(_kept(after), (inverse and not known.reciprocal and not before.exponential) or kept)
        if call.name == "exp":
            u = self._handle(call, x)
            origin = replace(origin, exponential=Exponential(At(u, u._version), call.reference, known.shifted))
        elif call.name == "reciprocal" or (call.name == "rdiv" and _is_one(call.args[1])):
            origin = replace(origin, total=_inverted(known.total))
        # What follows a scale needs no fusing under rules that telescope, y / x: those without a reference.
        alone = before.scaled and (before.length == 0 or not self.with_reference)
        return (call if alone else self._fused(call, before, after)), origin

    def _with_constant(self, call: Call) -> tuple[Call, Origin]:
        index = next(i for i, operand in enumerate(call.operands) if active(operand))
        x, constants = call.operands[index], [o for o in call.operands if not active(o)]
        known, number = self.of(x), all(constant.ndim == 0 for constant in constants)
        before = self._chain(x, known)

        def run(t: Tensor) -> Tensor:
            operands = list(call.operands)
            operands[index] = before.run(t)
            out: Tensor = call.run(*operands)
            return out

        keeps_shape = number or torch.broadcast_shapes(x.shape, *(c.shape for c in constants)) == x.shape
        if call.name == "div" and index == 1:  # a constant over an activation
            after = self._after(call, before, run, bent=True, scaled=False) if keeps_shape else None
            after = None if after is None else replace(after, exponential=False)
            one = constants[0].numel() == 1 and _is_one(constants[0])
            total = _inverted(known.total) if one else None
            origin = Origin(_kept(after), not known.reciprocal and not before.exponential, total=total)
            return (call if after is None or before.scaled else self._fused(call, before, after)), origin
        if call.name in ("mul", "div"):
            after = self._after(call, before, run) if keeps_shape else None
            return call, Origin(_kept(after), known.reciprocal)
        if not number:
            normal = self.of(constants[0]).normal if call.name == "sub" and index == 0 else None
            return call, Origin(normal=_log(normal)) if _less_its_total(normal, x) else _UNKNOWN
        after = self._after(call, before, run, scaled=False)
        return (self._fused(call, before, after) if before.bent else call), Origin(_kept(after))

    # Two operands ----------------------------------------------------------------------------------------------

    def _with_another(self, call: Call) -> tuple[Call, Origin]:
        if len(call.operands) != 2:
            return call, _UNKNOWN
        a, b = call.operands
        first, second = self.of(a), self.of(b)
        for each, other in ((first, second), (second, first))[: 2 if call.name == "mul" else 1]:
            total = other.total
            if call.name in ("mul", "div") and total is not None and total.of.same(each.exponential):
                written = self._softmax(call, total, "softmax") if total.reciprocal == (call.name == "mul") else None
                if written is not None:
                    return written, _UNKNOWN
        one, two = self._chain(a, first), self._chain(b, second)
        if one.source is two.source and one.version == two.version and a.shape == b.shape:
            curved = call.name in ("mul", "div") or one.bent or two.bent
            after = self._after(call, one, lambda t: call.run(one.run(t), two.run(t)), bent=curved, scaled=False)
            after = replace(
                after,
                exponential=False,
                arithmetic=one.arithmetic and two.arithmetic,
                length=one.length + two.length + 1,
            )
            both = call.name == "mul" and first.reciprocal and second.reciprocal
            return (self._fused(call, one, after) if curved else call), Origin(_kept(after), both)
        if call.name == "mul":
            return self._product(call)
        if call.name == "div" and (second.reciprocal or two.exponential):
            return replace(call, inverted=True), _UNKNOWN  # over one over something, or over a gate's 1 + exp
        if call.name == "sub" and _less_its_total(second.normal, a):
            return call, Origin(normal=_log(second.normal))
        peak = second.maximum_of
        if call.name == "sub" and peak is not None and peak.tensor is a and peak.valid:
            return call, Origin(shifted=Shifted(peak, tuple(b.shape)))
        return call, _UNKNOWN

    def _product(self, call: Call) -> tuple[Call, Origin]:
        flags = [self.of(operand).reciprocal for operand in call.operands]
        if len(flags) == 2 and sum(flags) == 1:
            return replace(call, reciprocal=flags.index(True)), _UNKNOWN
        return call, Origin(reciprocal=True) if call.name == "mul" and all(flags) else _UNKNOWN

    def _reduced(self, call: Call) -> Origin:
        """Recognise the sum of exponentials, and the maximum that is subtracted before them."""
        if call.name == "sum" and len(call.operands) == 1:
            exponential = self.of(call.operands[0]).exponential
            dim = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", call.kwargs.get("axis"))
            if exponential is None or dim is None or dim == ():
                return _UNKNOWN
            dims = (dim,) if isinstance(dim, int) else tuple(dim)
            keepdim = call.args[2] if len(call.args) > 2 else call.kwargs.get("keepdim", False)
            axes = exponential.u.tensor.ndim
            return Origin(total=Total(exponential, tuple(sorted(d % axes for d in dims)), bool(keepdim)))
        if call.kind == "softmax":
            given, x = call.bound(), call.operands[0]
            dim, at = given.get("dim"), At(x, x._version)
            if dim is not None and (call.name != "logsumexp" or given.get("keepdim")):
                return Origin(normal=Normal(call.name, at, dim, call.reference))
        if call.name in ("max", "amax") and len(call.operands) == 1:
            return Origin(maximum_of=At(call.operands[0], call.operands[0]._version))
        return _UNKNOWN

    # What rules see --------------------------------------------------------------------------------------------

    def _handle(self, call: Call, x: Tensor) -> Tensor:
        """Return x, or a copy with x's graph where the call is about to write into x."""
        return x.clone() if call.in_place and x is call.args[0] else x

    def _after(self, call: Call, before: Chain, run: Function, bent: bool = False, scaled: bool = True) -> Chain:
        """Return the chain with one more operator, whose source survives a call that writes into it."""
        source = before.source
        if call.in_place and source is call.args[0] and self.fuses:
            source = self._handle(call, source)
            self._references[source] = source._version, self._reference(before)
        version = before.version if source is before.source else source._version
        bent, scaled = before.bent or bent, before.scaled and scaled
        length = before.length + 1
        return Chain(source, version, run, scaled, bent, before.exponential, before.arithmetic, length)

    def _reference(self, chain: Chain) -> Tensor | None:
        version, reference = self._references.get(chain.source, (None, None))
        return reference if version == chain.version else None

    def _fused(self, call: Call, before: Chain, after: Chain) -> Call:
        """Return the call of the whole activation on its source, if rules can see it as that."""
        reference = self._reference(before)
        stale = before.source._version != before.version
        if not self.fuses or stale or (self.with_reference and reference is None) or after.length > _LONGEST:
            return call
        with torch.no_grad():
            value = call.run(*(operand.detach() for operand in call.operands))
        references = () if reference is None else (reference,)
        name = "arithmetic" if after.arithmetic else "elementwise"
        return Call(name, after.run, (before.source,), {}, False, references, value=value)

    def _other_softmax(self, normal: Normal) -> Call:
        """Return the logarithm of a softmax, or the exponential of its logarithm, as one call."""
        name, function = ("log_softmax", _log_softmax) if normal.name == "softmax" else ("softmax", _exp_log_softmax)
        return Call(name, function, (normal.x.tensor, normal.dim), {}, False, normal.reference)

    def _softmax(self, call: Call, total: Total, name: str) -> Call | None:
        """Return a softmax or logsumexp that was written out as one call; None where its operand was overwritten."""
        e, dims = total.of, total.dims
        u = e.u
        if e.shifted is not None and name == "softmax" and not self.with_reference:
            # Of u = x - max(x) the softmax is that of x, whose relevance is not lost where u is 0.
            shape = e.shifted.shape
            aligned = (1,) * (u.tensor.ndim - len(shape)) + shape
            u = e.shifted.x if all(aligned[dim] == 1 for dim in dims) else u
        if not u.valid or (self.with_reference and not e.reference):
            return None
        if name == "softmax":
            if not total.keepdim and dims != tuple(range(len(dims))):
                return None
            return Call(name, _softmax, (u.tensor, dims), {}, False, e.reference)
        return Call(name, _logsumexp, (u.tensor, dims, total.keepdim), {}, False, e.reference)


def _kept(chain: Chain | None) -> Chain | None:
    """Return the chain unless it is too long to be continued."""
    return chain if chain is not None and chain.length <= _LONGEST else None


def _moved(name: str, args: tuple[Any, ...], result: Tensor, total: Total | None) -> Total | None:
    """Return what a sum of exponentials is after a move: the same, or with its axes put back."""
    if total is None or total.keepdim:
        return total if name in _SAME and name != "neg" else None
    index = args[1] if name == "getitem" else ()
    entries = index if isinstance(index, tuple) else (index,)
    whole = [int(size) for size in total.of.u.tensor.shape]
    for dim in total.dims:
        whole[dim] = 1
    in_order = name in _IN_ORDER and all(entry in (None, Ellipsis, slice(None)) for entry in entries)
    return replace(total, keepdim=True) if in_order and list(result.shape) == whole else None


def _inverted(total: Total | None) -> Total | None:
    return None if total is None else replace(total, reciprocal=not total.reciprocal)


def _log(total: Normal | None) -> Normal | None:
    return None if total is None else replace(total, name="log_softmax")


def _less_its_total(normal: Normal | None, x: Tensor) -> bool:
    """Whether x minus this is x - logsumexp(x)."""
    return normal is not None and normal.name == "logsumexp" and normal.x.tensor is x and normal.x.valid


def _negative(exponent: Any) -> bool:
    return not (isinstance(exponent, Tensor) and exponent.numel() != 1) and float(exponent) < 0


def _is_one(number: Any) -> bool:
    return not (isinstance(number, Tensor) and number.numel() != 1) and float(number) == 1


def _softmax(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    e = x.exp()
    return e / e.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: Any) -> Tensor:
    return x.softmax(dim).log()


def _exp_log_softmax(x: Tensor, dim: Any) -> Tensor:
    return (x - x.logsumexp(dim, keepdim=True)).exp()


def _logsumexp(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.exp().sum(dim, keepdim=keepdim).log()
