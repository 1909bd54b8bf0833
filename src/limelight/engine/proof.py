"""What one run of a model shows about it: which tensors it writes, in which precision it computes, and whether its
copy does the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..base.checkpoints import is_checkpointing
from ..base.notes import Note
from ..base.types import Outputs
from ..question.targets import tensor_in
from .copying import CONSTANTS

PRECISION = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2}
COARSEST = 3e-2
"""Shares of the largest output by which two runs of one function may differ; bfloat16 and quantised: `COARSEST`."""


def tolerance(dtype: torch.dtype | None) -> float:
    """Return the share of the largest output by which two runs in this precision may differ."""
    return COARSEST if dtype is None else PRECISION.get(dtype, COARSEST)


def coarser(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """Return the dtype that rounds more."""
    return max(first, second, key=tolerance)


def autocast() -> tuple[tuple[str, torch.dtype], ...]:
    """Return the devices on which autocast is on, each with its dtype."""
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))


@dataclass(frozen=True)
class Proof:
    """What a run of a model showed.

    `precision`: the coarsest floating dtype that it computes in. `writes`: the parameters that its forward writes.
    `borrow`: why the model itself has to be run; "" where its copy does the same. `seeds`: whether it sets Python's or
    NumPy's generator and so draws the same at each call. `checkpoints`: whether parts of it drop their activations to
    compute them again in the backward pass; None until a pass with gradients was run. `outputs`: what the operator that
    made the outputs says that they are; None where it leaves that open. `autocast`: where it was on, and to what.
    """

    precision: torch.dtype
    writes: tuple[str, ...] = ()
    borrow: str = ""
    seeds: bool = False
    checkpoints: bool | None = None
    outputs: Outputs | None = None
    autocast: tuple[tuple[str, torch.dtype], ...] = field(default_factory=autocast)

    @property
    def fits(self) -> bool:
        """Whether autocast is as it was, without which the model computes in another precision."""
        return self.autocast == autocast()

    @staticmethod
    def fitting(known: Proof | None) -> Proof | None:
        """Return what is known if it holds as things are now."""
        return known if known is not None and known.fits else None

    def notes(self, rows: torch.dtype) -> list[str]:
        """Return what a map's reader should know, for rows of this dtype."""
        found: list[str] = []
        if self.writes:
            found.append(Note("fact", f"the model writes {', '.join(self.writes)} as it runs: a copy was written"))
        if tolerance(self.precision) > tolerance(rows):
            name = str(self.precision).removeprefix("torch.")
            share = tolerance(self.precision)
            exact = f"the model computes in {name} inside: scores are exact to about {share:.0%}"
            flips = "rounding flips units at their kinks, which moves single values of a gradient by up to its largest"
            found.append(Note("fact", f"{exact}; {flips}"))
        return found


@dataclass
class Watch(TorchDispatchMode):
    """A mode in which every operator of torch reports what it writes and computes.

    `named`: the tensors to watch. `before` keeps the values that those had which were written, by name; `precision` is
    the coarsest floating dtype of any result. `checkpoints`: whether activations are dropped to be computed again.
    `made_by`: the operator that wrote each memory last.
    """

    named: dict[str, Tensor]
    precision: torch.dtype
    before: dict[str, Tensor] = field(default_factory=dict)
    checkpoints: bool = False
    made_by: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: dict[int, list[str]] = {}
        for name, tensor in self.named.items():
            if _has_storage(tensor):
                self._names.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(value)
            for name, value in (kwargs or {}).items():
                if name == "out":
                    self._keep(value)
        self.checkpoints |= is_checkpointing()
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and (each.is_floating_point() or each.is_quantized):
                self.precision = coarser(self.precision, each.dtype)
                if not func.is_view and _has_storage(each):
                    self.made_by[each.untyped_storage().data_ptr()] = func.overloadpacket.__name__
        return result

    def outputs(self, outputs: Any) -> Outputs | None:
        """Return what the operator that made the model's outputs says that they are."""
        found = tensor_in(outputs)
        if found is None or not _has_storage(found[1]):
            return None
        return _OUTPUTS_OF.get(self.made_by.get(found[1].untyped_storage().data_ptr(), ""))

    def _keep(self, value: Any) -> None:
        for each in tree_leaves(value):
            if isinstance(each, Tensor) and _has_storage(each):
                for name in self._names.get(each.untyped_storage().data_ptr(), ()):
                    if name not in self.before:
                        self.before[name] = self.named[name].detach().clone()


# A logarithm of softmax is a logit like any other: its softmax is the probability.
_OUTPUTS_OF: dict[str, Outputs] = {
    **dict.fromkeys(("_softmax", "softmax", "_safe_softmax"), "probabilities"),
    **dict.fromkeys(("sigmoid", "sigmoid_"), "sigmoids"),
    **dict.fromkeys(("addmm", "mm", "bmm", "baddbmm", "linear", "convolution", "mkldnn_linear"), "logits"),
    **dict.fromkeys(("_log_softmax", "log_softmax"), "logits"),
}


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.numel() > 0


def differ(first: Any, second: Any, precision: torch.dtype) -> bool:
    """Whether the tensors of two outputs differ by more than the precision explains."""
    mine, theirs = _tensors(first), _tensors(second)
    if [each.shape for each in mine] != [each.shape for each in theirs]:
        return True
    for one, other in zip(mine, theirs, strict=True):
        one, other = one.detach().double(), other.detach().double()
        scale = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
        if not torch.allclose(one, other, rtol=0, atol=tolerance(precision) * scale, equal_nan=True):
            return True
    return False


def _tensors(outputs: Any) -> list[Tensor]:
    named = getattr(outputs, "__dict__", None)
    leaves = tree_leaves(dict(named) if named and not isinstance(outputs, Tensor | dict) else outputs)
    return [each for each in leaves if isinstance(each, Tensor) and not each.is_complex() and not each.is_sparse]


@contextmanager
def calls_of(modules: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """Collect which of these modules are called until the block ends."""
    called: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.append(module))
        for module in modules
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def fingerprint(modules: Iterable[nn.Module]) -> int:
    """Return a number that changes with the modules' identities, classes, attributes, parameters and buffers.

    Constants count by value, other attributes by identity; what tensors hold does not count.
    """
    found: list[Any] = []
    for module in modules:
        state = vars(module)
        found += [type(module), id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            continue
        found += [each if type(each) in CONSTANTS else id(each) for each in state.values()]
        for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
            found += map(id, state[name].values())
        found += [each.dtype for each in state["_parameters"].values() if each is not None]
    return hash(tuple(found))
