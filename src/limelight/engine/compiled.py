"""Compiled rows: the model without gradients as one program that torch's inductor makes once for a prepared model."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from ..base.devices import users_tensors
from ..rules.audit import tensors
from .as_written import eagerly
from .carried import is_alone
from .layers import Modules
from .model_copy import ModelCopy
from .packed import VALUE_TOLERANCE, relative_error

MOST_ROWS = 1 << 16  # of a pass
_ROWS = 3  # of the example: a size of 1 or 2 would be taken for a constant


class NotCompiled(Exception):
    """The rows of this model cannot be compiled; the message says why."""


@dataclass(frozen=True, eq=False)
class CompiledRows:
    """A program that computes the model's outputs at any number of rows of one shape; it holds its own weights."""

    program: Callable[[Tensor], Any]
    bytes: int

    @staticmethod
    def proven(module: nn.Module, row: Tensor) -> CompiledRows:
        """Compile a frozen copy for rows like `row` `(1, *features)`, in up to a minute. Raises NotCompiled.

        Its outputs at the row, alone and among others, must agree with the copy's to VALUE_TOLERANCE.
        """
        example = row.detach().expand(_ROWS, *row.shape[1:]).contiguous()
        try:
            with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
                with eagerly():
                    shapes = ({0: torch.export.Dim("rows", min=1, max=MOST_ROWS)},)
                    exported = torch.export.export(module, (example,), dynamic_shapes=shapes)
                path = torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(Path(folder) / "rows.pt2"), inductor_configs={"freezing": True}
                )
                found = CompiledRows(torch._inductor.aoti_load_package(path), Path(path).stat().st_size)
            for rows in (row, example):
                _compare(found(rows), module(rows.clone()))
        except NotCompiled:
            raise
        except Exception as error:  # whatever the compiler meets; plain rows are as right
            first = str(error).strip().split("\n")[0]
            raise NotCompiled(f"{type(error).__name__} ({first[:200]})") from error
        return found

    def __call__(self, rows: Tensor) -> Any:
        # The program reads memory in the order that it was made for and does not ask.
        return self.program(rows.detach().contiguous())


def _compare(mine: Any, theirs: Any) -> None:
    pairs = list(zip(tensors(mine), tensors(theirs), strict=True))
    if not pairs or type(mine) is not type(theirs):
        raise NotCompiled(f"the model returns {type(theirs).__name__} and the program {type(mine).__name__}")
    for one, other in pairs:
        error = relative_error(one, other, torch.inf)
        if not error <= VALUE_TOLERANCE:
            raise NotCompiled(f"compiled outputs differ by {error:.1e} of the largest")


def _unread() -> bool:
    """Whether no mode looks at operators; that of the default device does not."""
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


_compiling = threading.Lock()


class Compiling:
    """Whether the passes of one call run compiled: those without gradients of a model prepared with `compile=True`.

    `row` `(1, *features)` is what the program is made for and proven on; `say` takes a note. `rows` counts those that
    ran compiled.
    """

    def __init__(self, copy: ModelCopy | None, modules: Modules, row: Tensor, say: Callable[[str], None]) -> None:
        self._copy, self._modules, self._row, self._say = copy, modules, row, say
        self._is_wanted, self._hooks = False, 0
        self.rows = 0

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Run the passes that can be compiled so while this is open, where the model was prepared for it."""
        before = self._is_wanted
        self._is_wanted = self._copy is not None and self._copy.kept is not None and self._copy.kept.compiles
        self._hooks = self._hooks_now() if self._is_wanted else 0
        try:
            yield
        finally:
            self._is_wanted = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run no pass compiled while this is open."""
        before, self._is_wanted = self._is_wanted, False
        try:
            yield
        finally:
            self._is_wanted = before

    @property
    def program(self) -> CompiledRows | None:
        """What the next pass runs: None where it takes a gradient, or a hook or mode of ours reads it."""
        if not self._is_wanted or torch.is_grad_enabled() or not _unread() or self._hooks_now() != self._hooks:
            return None
        found = self._known_or_made()
        if isinstance(found, NotCompiled):
            self._is_wanted = False
            self._say(f"plain rows and not compiled ones: {found}")
            return None
        return found

    def _known_or_made(self) -> CompiledRows | NotCompiled:
        """Return the program for rows of this shape, which the prepared model keeps, or why there is none."""
        assert self._copy is not None and self._copy.kept is not None
        kept, key = self._copy.kept, (tuple(self._row.shape[1:]), self._row.dtype)
        with _compiling:  # waited for, so that the answer does not depend on who came first
            if key not in kept.compiled:
                try:
                    kept.compiled[key] = self._made(self._copy)
                except NotCompiled as reason:
                    kept.compiled[key] = reason
            found: CompiledRows | NotCompiled = kept.compiled[key]
        return found

    def _made(self, copy: ModelCopy) -> CompiledRows:
        if not is_alone():
            raise NotCompiled("the model gets other arguments beside the rows")
        copy.prove(self._row)
        assert copy.proof is not None
        if copy.borrows or copy.proof.writes or copy.proof.seeds:
            raise NotCompiled("the model writes a parameter or draws numbers as it runs")
        if copy.proof.precision != self._row.dtype or torch.is_autocast_enabled(self._row.device.type):
            raise NotCompiled(f"the model computes in {copy.proof.precision} inside, or autocast is on")
        assert copy.kept is not None
        with users_tensors(), copy.kept.copy() as made:
            return CompiledRows.proven(made.module, self._row)

    def _hooks_now(self) -> int:
        """Return how many hooks are on the copy, those of the user among them."""
        return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in self._modules.values())
