"""The rule engine: a forward pass in which chosen operators get another backward.

A `TorchFunctionMode` sees every operator that the model calls, whatever its spelling. Where the propagation has a
rule, the operator's value is kept and its backward becomes the rule; everywhere else autograd's own derivative is
already right, because what travels backwards are *multipliers* $m$ with contributions $C = m\\,(x - x_0)$. No module
is touched, nothing global is patched, and the mode belongs to its thread.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ..base.notes import Note
from . import audit
from .audit import UncoveredOperator, source_line
from .call import Call, active, keep_parameters_frozen
from .names import DETACHING, PLAIN, canonical
from .opened import opened
from .propagation import Propagation
from .tape import Tape

OnUncovered = Literal["error", "gradient"]
Pull = Callable[..., tuple["Tensor | None", ...]]


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
    """Attach a rule: `pull(multiplier of the output, *saved)` gives one multiplier (or None) per operand."""
    # In a list and as `.data`: a tensor argument, or a view, handed through could not be written to in place later.
    out: Tensor = Ruled.apply([value.data], pull, tuple(saved), *operands)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True, eq=False)
class Producer:
    """What made a tensor, as long as nothing wrote into it since."""

    output: Tensor
    version: int
    call: Call
    detail: Any = None


@dataclass(frozen=True, eq=False)
class Handed:
    """Relevance that a first-layer rule read at its operator's input instead of sending a multiplier."""

    at: Tensor
    relevance: Tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


class Propagate(TorchFunctionMode):
    """The mode: finds each call's rule, records or replays the reference, remembers producers, audits the rest."""

    def __init__(
        self, propagation: Propagation, root: Tensor | None, tape: Tape, on_uncovered: OnUncovered = "error"
    ) -> None:
        super().__init__()
        self.propagation, self.root, self.tape, self.on_uncovered = propagation, root, tape, on_uncovered
        self.entered = False  # an affine operator has been met: before it lies only the input's normalisation
        self.hands_over = False  # a first-layer rule will hand relevance down, so the graph must be kept
        self.normalised = False  # a normalisation was compared with its reference: report the health ratio
        self.counter = itertools.count()  # numbers the affine operators of the pass
        self.absorbed = 0.0  # relevance that softmax's first-order rule keeps to itself
        self.topmost: object = None  # the affine operator that the backward pass met first
        self.handed: list[Handed] = []
        self.notes: dict[str, None] = {}
        self.constants: dict[str, None] = {}  # operators on the way whose output a rule took for a constant
        self.ruled_by: set[type] = set()  # the rules that came to act
        self._producers: dict[int, Producer] = {}
        self._covered: set[Any] = set()
        self._masks: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if _top_saved_tensors_default_hooks(False) is None:
            return self._dispatch(func, args, kwargs or {})
        # Activation checkpointing: what it drops here it would compute again in the backward pass, where no rule
        # is in force. Ours are the innermost hooks, and they keep everything.
        with saved_tensors_hooks(_same, _same):
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, in_place = canonical(func)
        recording = self.root is None
        if name in PLAIN and not (self.propagation.producers or self._masks):  # most calls, answered quickly
            return func(*args, **kwargs)
        keep_parameters_frozen(args, kwargs)
        call = Call.of(name, func, args, kwargs, in_place)
        inside = opened(call)
        if inside is not None:
            with self:
                result = inside()
            return call.args[0].copy_(result) if call.in_place else result
        if self._is_taped(call):
            call = replace(call, reference=self.tape.step(call).operands)
        if recording:
            return func(*args, **kwargs)
        given = list(audit.tensors((call.args, call.kwargs)))
        masked = any(id(t) in self._masks for t in given)
        if (masked and call.kind != "where") or (name in DETACHING and any(map(active, given))):
            return self._constant(call)
        if not any(map(active, given)):
            return func(*args, **kwargs)
        rule = self.propagation.rule(call, self)
        if rule is None:
            result = self.native(call)
        else:
            self.ruled_by.add(type(rule))
            result = rule(call, self)
            if call.in_place and isinstance(result, Tensor) and result is not call.args[0]:
                # Written back rather than returned, so that every alias of the tensor sees it.
                return call.args[0].copy_(result)
        if self.propagation.producers and isinstance(result, Tensor) and id(result) not in self._producers:
            self.produced(result, call)
        return result

    def _is_taped(self, call: Call) -> bool:
        taped = call.name in self.propagation.taped and call.operands
        return bool(taped) and not (call.name in ("mul", "div") and len(call.operands) < 2)

    # Producers -------------------------------------------------------------------------------------------------

    def produced(self, output: Tensor, call: Call, detail: Any = None) -> None:
        """Remember what made this tensor. The tensor is kept alive so that its id stays its own."""
        self._producers[id(output)] = Producer(output, output._version, call, detail)

    def producer(self, tensor: Tensor) -> Producer | None:
        """What made this tensor, or None where it is unknown or was overwritten through any alias since."""
        found = self._producers.get(id(tensor))
        return found if found is not None and tensor._version == found.version else None

    def is_first(self, *operands: Tensor) -> bool:
        """Does no affine rule stand between the model's input and these tensors?"""
        return not any(getattr(getattr(node, "pull", None), "is_affine", False) for node in audit.graph(operands))

    # The audit -------------------------------------------------------------------------------------------------

    def native(self, call: Call, covered: bool = False) -> Any:
        """Run the operator as it is; unless `covered`, it must be linear in what varies."""
        before = [t.grad_fn for t in audit.tensors((call.args, call.kwargs))]
        result = call.func(*call.args, **call.kwargs)
        if not covered and call.kind == "plain":
            return result
        new = list(audit.graph(audit.tensors(result), before))
        unsafe = call.kind == "refused" or any(not audit.is_safe(node, self.propagation.linear_nodes) for node in new)
        if not covered and unsafe:
            self.uncovered(call.name)
            covered = True
        if covered:
            self._covered.update(new)
        return result

    def uncovered(self, operator: str, where: str | None = None, reason: str = "") -> None:
        """Raise UncoveredOperator, or note it where the gradient was asked for."""
        where = where or source_line()
        if self.on_uncovered == "error":
            raise UncoveredOperator(self.propagation.name, operator, where, reason)
        text = f"plain gradient used for {operator} ({where}), which {self.propagation.name} has no rule for"
        self.note(Note("plain-gradient", text))

    def note(self, text: str) -> None:
        self.notes[text] = None

    def audit(self, score: Tensor) -> None:
        """Look through the finished graph for what this mode never saw: TorchScript, custom Functions, threads."""
        for node in audit.graph([score]):
            if node not in self._covered and not audit.is_safe(node, self.propagation.linear_nodes):
                self.uncovered(
                    node.name(),
                    "called outside the rule engine's sight: TorchScript, a custom autograd Function, a worker "
                    "thread or a compiled extension",
                )

    def forget(self) -> None:
        """Let go of what only the forward pass needed, so that the backward pass frees activations as it goes."""
        self._producers.clear()
        self._covered.clear()
        self._masks.clear()

    def _constant(self, call: Call) -> Any:
        """Constants made from activations, and what uses them: multiplying by one is a nonlinearity in disguise."""
        before = [t.grad_fn for t in audit.tensors((call.args, call.kwargs))]
        result = call.func(*call.args, **call.kwargs)
        changed = call.args[:1] if call.in_place or call.name == "setitem" else ()
        made = list(audit.tensors((result, changed)))
        if any(map(active, made)):
            self.uncovered(f"{call.name} with a mask or constant computed from the activations")
            self._covered.update(audit.graph(made, before))
        else:
            self._masks.update((id(t), t) for t in made)
        return result


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z + epsilon * sign(z), with sign(0) = +1, so that it can be divided by."""
    return torch.where(z < 0, z - epsilon, z + epsilon)


def jvp(at: Tensor, root: Tensor, tangent: Tensor) -> Tensor:
    """The derivative of `at` along a tangent of `root`, both of one recorded graph (by differentiating its vjp)."""
    with torch.enable_grad():
        u = torch.zeros_like(at).requires_grad_()
        (pulled,) = torch.autograd.grad(at, root, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, tangent, retain_graph=True)
    return pushed
