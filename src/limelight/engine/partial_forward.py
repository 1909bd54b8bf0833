"""Running only the part of a model after a layer: the modules before it return recorded outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .layers import Modules, hooked


@dataclass
class ForwardRecord:
    """The outputs of `layer` and of the outermost modules that finished before it.

    A module's output is used only where that equals running it: it ran once, returned one tensor with an entry for
    each row, and nothing wrote into that tensor afterwards.
    """

    layer: str
    _returned: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    _runs: Counter[str] = field(default_factory=Counter)

    @property
    def output(self) -> Tensor:
        """The layer's output for the recorded rows."""
        return self._returned[self.layer][0]

    def outputs(self) -> dict[str, Tensor]:
        """The outputs that can replace running their modules, by name."""
        rows = len(self.output)
        return {
            name: output
            for name, (output, version) in self._returned.items()
            if self._runs[name] == 1 and output.ndim and len(output) == rows and output._version == version
        }

    def add(self, name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Record the output of the module of that name, in place of those inside it."""
        self._runs[name] += 1
        if self.layer in self._returned:
            return
        self._returned = {inner: kept for inner, kept in self._returned.items() if not inner.startswith(f"{name}.")}
        if isinstance(output, Tensor):
            kept = output.clone() if name == self.layer else output  # the model may overwrite the original
            self._returned[name] = kept, kept._version


@contextmanager
def recorded(modules: Modules, layer: str) -> Iterator[ForwardRecord]:
    """Record, in one forward pass, the outputs of the modules before `layer`; TorchScript is run again later."""
    record = ForwardRecord(layer)
    with hooked(modules, record.add):
        yield record


@contextmanager
def replayed(modules: Modules, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Make these modules return `outputs` without running while this is open."""
    original = {name: vars(modules[name]).get("forward") for name in outputs}
    try:
        for name, output in outputs.items():
            modules[name].forward = _returning(output)
        yield
    finally:
        for name, before in original.items():
            vars(modules[name]).pop("forward", None)
            if before is not None:
                modules[name].forward = before


def _returning(output: Tensor) -> Callable[..., Tensor]:
    return lambda *args, **named: output
