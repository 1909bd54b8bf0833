"""The rule engine: a forward pass in which chosen operators get another backward.

A `TorchFunctionMode` sees every operator that the model calls, whatever its spelling. Where the propagation has a
rule, the operator's value is kept and its backward becomes the rule; everywhere else autograd's own derivative is
correct, because *multipliers* $m$ with contributions $C = m\\,(x - x_0)$ are propagated. No module is changed, nothing
global is patched, and the mode belongs to its thread.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..base.checkpoints import is_checkpointing, keeping_activations
from ..base.errors import NO_GRADIENT, NoGradient
from ..base.notes import Note
from ..base.second_run import is_second_run
from . import audit
from .ahead import mark_activated
from .audit import UncoveredOperator, source_line
from .call import Call, active, keep_parameters_frozen
from .lineage import Lineage
from .names import AFFINE, DETACHING, KINDS, METADATA, PLAIN, canonical
from .opened import bare, opened, parameters
from .packed import packed
from .selections import Comparisons, complement, elementwise
from .shares import JOINING, by_row, constant_part, interleaves, taker_of
from .tape import Tape

OnUncovered = Literal["error", "gradient"]


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
    `fuses`: whether an activation written out as several operators is one call. Rescale gives the same without: what
    depends on one number alone has one multiplier that is complete.
    `part`: of a change, the positive or the negative one, whose contributions the answer is made of.
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
    fuses: bool = False
    part: Literal["positive", "negative"] | None = None
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
            known = {each.name: getattr(rule, each.name) for each in fields(rule)} if is_dataclass(rule) else {}
            inner = {key: changed(value) for key, value in known.items() if is_dataclass(value)}
            return replace(rule, **inner, **{key: value for key, value in settings.items() if key in known})

        return replace(self, entries=tuple((predicate, changed(rule)) for predicate, rule in self.entries))

    def prepend(self, *entries: Entry) -> "Propagation":
        """Return the same propagation with the user's rules in front of its own."""
        return replace(self, entries=(*entries, *self.entries), folds=False)

    def rule(self, call: Call, propagate: "Propagate") -> Rule | None:
        return next((rule for predicate, rule in self.entries if predicate(call, propagate)), None)


@dataclass(frozen=True, eq=False)
class Producer:
    """The call that made a tensor, valid until something writes into the tensor."""

    output: Tensor
    version: int
    call: Call
    detail: Any = None


class Propagate(TorchFunctionMode):
    """The mode: finds each call's rule, records or replays the reference, remembers producers, audits the rest."""

    def __init__(
        self, propagation: Propagation, root: Tensor | None, tape: Tape, on_uncovered: OnUncovered = "error"
    ) -> None:
        super().__init__()
        self.propagation, self.root, self.tape, self.on_uncovered = propagation, root, tape, on_uncovered
        self.entered = False  # an affine operator has run: before it there is only the input's normalisation
        # Rules for first layers read the input's normalisation off its derivative: there each operator stays its own.
        self.reads_inputs = any(getattr(rule, "for_first_layers", False) for _, rule in propagation.entries)
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
        self.read: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []  # units whose parts are variables of their own
        self.effects: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}  # nonlinearities' outputs, and their parts
        self.lineage = Lineage(propagation.fuses, propagation.needs_reference)
        self._producers: dict[int, Producer] = {}
        self._covered: set[Any] = set()
        self._masks: dict[int, Tensor] = {}
        self._comparisons = Comparisons()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_second_run():  # of which a tape would record every step once more
            return func(*args, **(kwargs or {}))
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
        # A shortcut for most calls.
        if name in PLAIN and not (self.propagation.producers or self._masks or self._comparisons or joins):
            result = func(*args, **kwargs)
            self.lineage.moved(name, func, args, kwargs, result)
            return result
        keep_parameters_frozen(args, kwargs)
        if name == "conv2d":
            func = packed(func, args, kwargs)
        call = Call.of(name, func, args, kwargs, in_place)
        body = opened(call) or self._with_varying_parameters(call)
        if body is not None:
            with self:
                result = body()
            return call.args[0].copy_(result) if call.in_place else result
        if self._taped(call):
            call = replace(call, reference=self.tape.step(call))
        result = call.func(*call.args, **call.kwargs) if self.root is None else self._by_rule(call)
        self._comparisons.see(call, result)
        return result

    def _by_rule(self, call: Call) -> Any:
        """Run an operator of the input's run, with the rule that it has."""
        given = audit.tensors((call.args, call.kwargs))
        if call.name == "detach" and self.lineage.is_maximum(call.args[0]):
            call = Call("alias", torch.Tensor.view_as, (call.args[0], call.args[0]), {}, False)  # see `Lineage`
        if any(map(active, given)):
            selected = self._comparisons.read(call)
            if selected is not None:
                result = self._by_rule(selected)
                if not call.in_place and call.name != "setitem":
                    return result
                call.args[0].copy_(result)
                return call.args[0] if call.in_place else None
            call = elementwise(call)
            if call.name == "rsub" and not self.propagation.needs_reference:
                call = complement(call, self.producer(call.args[0]))
        masked = any(id(t) in self._masks for t in given)
        if (masked and call.kind != "where") or (call.name in DETACHING and any(map(active, given))):
            return self._constant(call)
        if not any(map(active, given)):
            return call.func(*call.args, **call.kwargs)
        seen, origin = self.lineage.read(call)
        if seen.kind == "activation" and self.reads_inputs and not self.entered:
            seen = call
        if seen.kind == "activation":
            mark_activated(seen)
        rule = self.propagation.rule(seen, self)
        if rule is None:
            result = self.native(call)
        else:
            self.used_rules.add(type(rule))
            result = rule(seen, self)
            if call.in_place and isinstance(result, Tensor) and result is not call.args[0]:
                # Written back rather than returned, so that every alias of the tensor sees it.
                written = call.args[0].copy_(result)
                if not result.requires_grad and not written._is_view():
                    written.detach_()  # the rule made a constant of it
                self.lineage.learn(written, origin)
                if id(result) in self.effects:
                    self.effects[id(written)] = (written, self.effects[id(result)][1])
                return written
        self.lineage.learn(result, origin)
        self.lineage.moved(call.name, call.func, call.args, call.kwargs, result)
        remembers = self.propagation.producers or call.name == "sigmoid"
        if remembers and isinstance(result, Tensor) and id(result) not in self._producers:
            self.produced(result, call)
        return result

    def is_made_constant(self, tensor: Any) -> bool:
        """Whether this is a mask or constant that was computed from activations."""
        return id(tensor) in self._masks

    def _taped(self, call: Call) -> bool:
        """Whether the call's operands are recorded in the reference run, which does not know what varies."""
        if self.propagation.needs_reference and self._comparisons.selects(call):
            return True
        taped = self.propagation.taped
        if not taped or not call.operands:
            return False
        if call.name in ("neg", "clone") or (call.name in ("mul", "div") and len(call.operands) < 2):
            return self.propagation.fuses  # an activation that is written out may start here
        if call.name in AFFINE and call.name not in taped:
            return len(call.operands) > 1 and not isinstance(call.operands[1], torch.nn.Parameter)
        return call.name in taped

    def _with_varying_parameters(self, call: Call) -> Callable[[], Any] | None:
        """Return the body of a normalisation or layer whose weight or bias varies; None for all others.

        The reference run does not know which do, and records all that are no parameters of a module. Where one turns
        out to vary, the body runs for the reference again.
        """
        given = parameters(call)
        if not self.propagation.needs_reference:
            return bare(call) if any(map(active, given)) else None
        if all(isinstance(each, torch.nn.Parameter) for each in given):
            return None
        mine = tuple(dict.fromkeys((*call.operands, *given)))
        theirs = self.tape.step(call, mine)
        if not any(map(active, given)):
            return None
        if self._taped(call):
            self.tape.step(call)
        reference = Propagate(self.propagation, None, Tape(), self.on_uncovered)
        with torch.no_grad(), reference:
            bare(call.substituted({id(a): b for a, b in zip(mine, theirs, strict=True)}))()
        return lambda: self._on_tape(replace(reference.tape, replaying=True), bare(call))

    def _on_tape(self, tape: Tape, body: Callable[[], Any]) -> Any:
        whole, self.tape = self.tape, tape
        try:
            result = body()
            tape.finish()
        finally:
            self.tape = whole
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
        covered = covered or (call.kind == "plain" and call.is_complex)
        before = [t.grad_fn for t in audit.tensors((call.args, call.kwargs))]
        if call.name in KINDS and call.kind == "unknown" and call.varies_otherwise:
            self.uncovered(call.name, reason="an argument varies for which there is no rule")
            covered = True
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
        """Release what the passes recorded: before the backward pass, so that it frees activations as it proceeds, and
        once it was read, since the graph keeps this mode and would be kept by it."""
        self._producers.clear()
        self._covered.clear()
        self._masks.clear()
        self.lineage.clear()
        self._comparisons.clear()
        self.first_relevances.clear()
        self.read.clear()
        self.effects.clear()
        self.topmost = None

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
