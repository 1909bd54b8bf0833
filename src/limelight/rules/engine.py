"""The rule engine: a forward pass in which chosen operators get another backward.

A `TorchFunctionMode` sees every operator that the model calls, whatever its spelling. Where the propagation has a
rule, the operator's value is kept and its backward becomes the rule; everywhere else autograd's own derivative is
correct, because *multipliers* $m$ with contributions $C = m\\,(x - x_0)$ are propagated. No module is changed, nothing
global is patched, and the mode belongs to its thread.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..base.checkpoints import is_checkpointing, keeping_activations, refuse_reentrant
from ..base.errors import NO_GRADIENT, NoGradient
from ..base.notes import Note
from . import audit
from .audit import UncoveredOperator, source_line
from .call import Call, active, keep_parameters_frozen
from .names import DETACHING, METADATA, PLAIN, canonical
from .opened import opened
from .packed import packed
from .shares import JOINING, by_row, constant_part, interleaves, taker_of

OnUncovered = Literal["error", "gradient"]
Pull = Callable[..., tuple["Tensor | None", ...]]
Pulled = tuple[Pull, list[Tensor]]
"""A rule's backward function, and the tensors to save for it."""


class Rule(Protocol):
    """A backward rule: given a call, return the operator's value with the rule as its backward."""

    def __call__(self, call: Call, propagate: "Propagate") -> Any: ...


class Predicate(Protocol):
    """Whether a rule applies to a call."""

    def __call__(self, call: Call, propagate: "Propagate", /) -> bool: ...


Entry = tuple[Predicate, Rule]


@dataclass(frozen=True)
class Native:
    """Plain autograd, chosen on purpose: the propagation's definition leaves this operator's derivative alone."""

    def __call__(self, call: Call, propagate: "Propagate") -> Any:
        return propagate.native(call, covered=True)


@dataclass(frozen=True)
class Propagation:
    """A backward method as data: its name, its rules in order, and how its answer is read.

    `entries`: (predicate, rule) pairs; the first whose predicate matches a call is used.
    `answer`: `"multiplier"` returns the multiplier at the input; `"relevance"` returns it times (input - reference),
    plus the relevance of first-layer rules, which compute relevance instead of a multiplier.
    `start`: propagate the score itself, or `"unit"` relevance (excitation backprop's probability).
    `taped`: names of the operators whose operands are recorded in the reference run.
    `linear_nodes`: whether a linear node of autograd in the graph is this method's own rule.
    `producers`: whether rules need to know the call that made an operand.
    `folds`: whether a batch norm may be computed in the convolution before it: the gradient of both is this method's
    own rule, and of every convolution and norm.
    `own_rule`: the one rule that differs from the plain gradient; where it never acts, the notes say so.
    """

    name: str
    entries: tuple[Entry, ...]
    answer: Literal["multiplier", "relevance"] = "relevance"
    start: Literal["score", "unit"] = "score"
    taped: frozenset[str] = frozenset()
    linear_nodes: bool = True
    producers: bool = False
    folds: bool = False
    own_rule: type | None = None

    @property
    def needs_reference(self) -> bool:
        return bool(self.taped)

    @property
    def counts(self) -> bool:
        """Whether the score is handed down as relevance, so that what biases and the like take can be counted."""
        return self.answer == "relevance" and not (self.linear_nodes or self.needs_reference)

    def tuned(self, **settings: Any) -> "Propagation":
        """Return the same propagation with these settings of every rule that has them: `tuned(bias=False)`."""

        def changed(rule: Any) -> Any:
            known = {each.name for each in fields(rule)} if is_dataclass(rule) else ()
            return replace(rule, **{key: value for key, value in settings.items() if key in known})

        return replace(self, entries=tuple((predicate, changed(rule)) for predicate, rule in self.entries))

    def prepend(self, *entries: Entry) -> "Propagation":
        """Return the same propagation with the user's rules in front of its own."""
        return replace(self, entries=(*entries, *self.entries), folds=False)

    def rule(self, call: Call, propagate: "Propagate") -> Rule | None:
        return next((rule for predicate, rule in self.entries if predicate(call, propagate)), None)


class Ruled(torch.autograd.Function):
    """An operator whose value is the model's own and whose backward is a rule."""

    @staticmethod
    def forward(ctx: Any, value: list[Tensor], pull: Pull, saved: Sequence[Tensor], *operands: Tensor) -> Tensor:
        ctx.pull = pull
        # Saved by autograd rather than in the closure: a later in-place write to one of them is then an error.
        ctx.save_for_backward(*saved)
        return value.pop()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *ctx.pull(grads[0], *ctx.saved_tensors))


def ruled(value: Tensor, pull: Pull, operands: Sequence[Tensor], saved: Sequence[Tensor] = ()) -> Tensor:
    """Attach a rule: `pull(multiplier of the output, *saved)` returns one multiplier (or None) per operand."""
    # In a list and as `.data`: a tensor argument, or a view, passed through could not be written to in place later.
    out: Tensor = Ruled.apply([value.data], pull, tuple(saved), *operands)  # type: ignore[no-untyped-call]
    return out


class RuledInPlace(torch.autograd.Function):
    """An operator that writes into its operand, whose backward is a rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, write: Callable[[], Any], pull: Pull, keep: bool) -> Tensor:
        write()
        ctx.mark_dirty(x)
        ctx.pull = pull
        ctx.save_for_backward(*([x.clone()] if keep else []))  # a copy: the model may write into x again
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.pull(grads[0], *ctx.saved_tensors), None, None, None)


def ruled_unary(call: Call, pull: Pull, keep: bool = False) -> Tensor:
    """Run an operator of one operand and attach a rule: `pull(multiplier of the output)`, with `keep` also its value.

    One that writes into its operand does so here too, without the copies that `ruled` would need.
    """
    (x,) = call.operands
    if call.in_place and x is call.args[0] and not x.is_leaf:
        out: Tensor = RuledInPlace.apply(x, lambda: call.func(*call.args, **call.kwargs), pull, keep)  # type: ignore[no-untyped-call]
        return out
    y = call.run(x.detach())
    return ruled(y, pull, [x], [y.clone()] if keep else [])


@dataclass(frozen=True, eq=False)
class Producer:
    """The call that made a tensor, valid until something writes into the tensor."""

    output: Tensor
    version: int
    call: Call
    detail: Any = None


class OtherPath(RuntimeError):
    """The reference took another path through the model's code than the input, so the two cannot be compared."""


@dataclass
class Tape:
    """The operators of the reference run, by name and operands; while `replaying`, they are read in order."""

    records: list[tuple[str, tuple[Tensor, ...]]] = field(default_factory=list)
    replaying: bool = False
    position: int = 0

    def step(self, call: Call) -> tuple[Tensor, ...]:
        """Record and return this call's operands, or return the reference's at this place."""
        if not self.replaying:
            # Clones: the model may overwrite an operand in place later.
            self.records.append((call.name, tuple(operand.detach().clone() for operand in call.operands)))
            return self.records[-1][1]
        here = f"operator {self.position + 1} of the input's run is {call.name} ({source_line()})"
        if self.position >= len(self.records):
            raise OtherPath(f"{here}; the reference's run ended before it")
        name, operands = self.records[self.position]
        if name != call.name:
            raise OtherPath(f"{here}; in the reference's run it was {name}")
        for mine, theirs in zip(call.operands, operands, strict=True):
            if theirs.ndim != mine.ndim or any(b not in (1, a) for a, b in zip(mine.shape, theirs.shape, strict=True)):
                raise OtherPath(f"{here} on {tuple(mine.shape)}; in the reference's run on {tuple(theirs.shape)}")
        self.position += 1
        return operands

    def finish(self) -> None:
        """Check that the input's run used every record."""
        if self.replaying and self.position != len(self.records):
            name = self.records[self.position][0]
            raise OtherPath(f"the input's run ended after {self.position} operators; the reference's went on to {name}")


class Propagate(TorchFunctionMode):
    """The mode: finds each call's rule, records or replays the reference, remembers producers, audits the rest."""

    def __init__(
        self, propagation: Propagation, root: Tensor | None, tape: Tape, on_uncovered: OnUncovered = "error"
    ) -> None:
        super().__init__()
        self.propagation, self.root, self.tape, self.on_uncovered = propagation, root, tape, on_uncovered
        self.entered = False  # an affine operator has run: before it there is only the input's normalisation
        self.keeps_graph = False  # a first-layer rule needs the graph once more after the backward pass
        self.normalised = False  # a normalisation was compared with its reference: report the health ratio
        self.counter = itertools.count()  # numbers the affine operators of the pass
        self.taken: dict[str, Tensor] = {}  # relevance of each row that does not travel on, by what took it
        self.propagating = False  # the backward pass runs: other passes over its graph count nothing
        self.topmost: object = None  # the affine operator that the backward pass reached first
        self.first_relevances: list[tuple[Tensor, Tensor]] = []  # a first-layer rule's operand, and its relevance
        self.notes: dict[str, None] = {}
        self.constants: dict[str, None] = {}  # operators whose output a rule treated as constant
        self.used_rules: set[type] = set()
        self._producers: dict[int, Producer] = {}
        self._covered: set[Any] = set()
        self._masks: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not is_checkpointing():
            return self._dispatch(func, args, kwargs or {})
        # Activation checkpointing would recompute the activations that it drops in the backward pass, where no rule
        # is active.
        with keeping_activations():
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, in_place = canonical(func)
        if name in METADATA:
            return func(*args, **kwargs)
        joins = self.propagation.counts and name in JOINING
        if name in PLAIN and not (self.propagation.producers or self._masks or joins):  # a shortcut for most calls
            return func(*args, **kwargs)
        keep_parameters_frozen(args, kwargs)
        if name == "conv2d":
            func = packed(func, args, kwargs)
        call = Call.of(name, func, args, kwargs, in_place)
        body = opened(call)
        if body is not None:
            with self:
                result = body()
            return call.args[0].copy_(result) if call.in_place else result
        taped = call.name in self.propagation.taped and call.operands
        if taped and not (call.name in ("mul", "div") and len(call.operands) < 2):
            call = replace(call, reference=self.tape.step(call))
        if self.root is None:  # the reference run, which only records
            return func(*args, **kwargs)
        given = audit.tensors((call.args, call.kwargs))
        masked = any(id(t) in self._masks for t in given)
        if (masked and call.kind != "where") or (name in DETACHING and any(map(active, given))):
            return self._constant(call)
        if not any(map(active, given)):
            return func(*args, **kwargs)
        rule = self.propagation.rule(call, self)
        if rule is None:
            result = self.native(call)
        else:
            self.used_rules.add(type(rule))
            result = rule(call, self)
            if call.in_place and isinstance(result, Tensor) and result is not call.args[0]:
                # Written back rather than returned, so that every alias of the tensor sees it.
                return call.args[0].copy_(result)
        if self.propagation.producers and isinstance(result, Tensor) and id(result) not in self._producers:
            self.produced(result, call)
        return result

    # Producers -------------------------------------------------------------------------------------------------

    def produced(self, output: Tensor, call: Call, detail: Any = None) -> None:
        """Record the call that made this tensor. The tensor is kept alive so that its id is not reused."""
        self._producers[id(output)] = Producer(output, output._version, call, detail)

    def producer(self, tensor: Tensor) -> Producer | None:
        """Return the producer of this tensor; None where it is unknown or the tensor was overwritten by any alias."""
        found = self._producers.get(id(tensor))
        return found if found is not None and tensor._version == found.version else None

    def is_first(self, *operands: Tensor) -> bool:
        """Whether no affine rule lies between the model's input and these tensors."""
        return not any(getattr(getattr(node, "pull", None), "is_affine", False) for node in audit.graph(operands))

    # The balance -----------------------------------------------------------------------------------------------

    def take(self, name: str, relevance: Tensor, interleaved: bool = False, late: bool = False) -> None:
        """Count relevance that does not travel on, each entry that of an output of an operator. Passes over the graph
        beside the backward pass call this too, and count only what is `late`. `interleaved`: see `interleaves`."""
        if (self.propagating or late) and self.propagation.counts:
            assert self.root is not None
            rows = by_row(relevance.detach(), len(self.root), interleaved)
            self.taken[name] = self.taken[name] + rows if name in self.taken else rows

    def taker(self, x: Tensor) -> Callable[[str, Tensor], None]:
        """Return `take` for outputs whose rows lie as those of the operand x do."""
        assert self.root is not None
        interleaved = self.propagation.counts and len(self.root) > 1 and interleaves(x, len(self.root))
        return partial(self.take, interleaved=True) if interleaved else self.take

    def counted(self, output: Any, constant: Tensor | None, name: str) -> None:
        """Count, in the backward pass, what a constant part of this output takes."""
        if constant is not None and self.propagation.counts and active(output):
            take = self.taker(output)
            # Below a first layer's rule there is no multiplier.
            output.register_hook(lambda g: None if g is None else take(name, g * constant))

    # The audit -------------------------------------------------------------------------------------------------

    def native(self, call: Call, covered: bool = False) -> Any:
        """Run the operator as it is; unless `covered`, it must be linear in what varies."""
        before = [t.grad_fn for t in audit.tensors((call.args, call.kwargs))]
        constant = constant_part(call) if self.propagation.counts else None
        result = call.func(*call.args, **call.kwargs)
        if constant is not None:
            self.counted(call.args[0] if call.name == "setitem" else result, constant, taker_of(call))
        if not covered and call.kind == "plain":
            return result
        new = list(audit.graph(audit.tensors(result), before))
        if any("NotImplemented" in node.name() for node in new):  # torch would give zeros
            raise NoGradient(NO_GRADIENT)
        unsafe = call.kind == "refused" or any(not audit.is_safe(node, self.propagation.linear_nodes) for node in new)
        if not covered and unsafe:
            self.uncovered(call.name)
            covered = True
        if covered:
            self._covered.update(new)
        return result

    def uncovered(self, operator: str, where: str | None = None, reason: str = "") -> None:
        """Raise UncoveredOperator, or add a note under on_uncovered="gradient"."""
        where = where or source_line()
        if self.on_uncovered == "error":
            raise UncoveredOperator(self.propagation.name, operator, where, reason)
        text = f"plain gradient used for {operator} ({where}), which {self.propagation.name} has no rule for"
        self.note(Note("plain-gradient", text))

    def note(self, text: str) -> None:
        self.notes[text] = None

    def audit(self, score: Tensor) -> None:
        """Search the finished graph for operators outside this mode: TorchScript, custom Functions, threads."""
        for node in audit.graph([score]):
            if node not in self._covered and not audit.is_safe(node, self.propagation.linear_nodes):
                self.uncovered(
                    node.name(),
                    "called where the rule engine cannot see it: TorchScript, a custom autograd Function, a worker "
                    "thread or a compiled extension",
                )

    def forget(self) -> None:
        """Release the forward pass's own records, so that the backward pass frees activations as it proceeds."""
        self._producers.clear()
        self._covered.clear()
        self._masks.clear()

    def _constant(self, call: Call) -> Any:
        """Run an operator that makes or uses a constant computed from activations: multiplying by one is nonlinear."""
        before = [t.grad_fn for t in audit.tensors((call.args, call.kwargs))]
        result = call.func(*call.args, **call.kwargs)
        changed = call.args[:1] if call.in_place or call.name == "setitem" else ()
        made = audit.tensors((result, changed))
        if any(map(active, made)):
            self.uncovered(f"{call.name} with a mask or constant computed from the activations")
            self._covered.update(audit.graph(made, before))
        else:
            self._masks.update((id(t), t) for t in made)
        return result


def stabilised(z: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return z + epsilon * sign(z), with sign(0) = +1, so that it can be divided by."""
    return torch.where(z < 0, z - epsilon, z + epsilon)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where whole is 0."""
    return torch.where(whole == 0, 0.0, part / torch.where(whole == 0, 1.0, whole))


def jvp(at: Tensor, root: Tensor, tangent: Tensor) -> Tensor:
    """Return the derivative of `at` along a tangent of `root`, both in one graph, by differentiating its vjp."""
    refuse_reentrant(audit.graph([at]))
    with torch.enable_grad():
        u = torch.zeros_like(at).requires_grad_()
        (pulled,) = torch.autograd.grad(at, root, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, tangent, retain_graph=True)
    return pushed
