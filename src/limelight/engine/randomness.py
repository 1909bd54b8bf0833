"""Whether a model draws random numbers as it runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base.second_run import second_run
from ..question.targets import output_tensor
from .as_written import eagerly
from .carried import arguments

Call = Callable[..., Any]


@eagerly()
def run_without_draws(call: Call, rows: Tensor) -> Any:
    """Call the model, compiled code eagerly, and return its outputs; the generators are as before.

    It also gets what the examples carry along, see `carrying`.

    A model that draws random numbers and answers alike, such as one that seeds itself, is accepted. Raises ValueError
    that names the layer for one whose answer is another at each call: a map would explain the draw.
    """
    before = _states(rows)
    placed, named = arguments(rows)
    try:
        outputs = call(*placed, **named)
        if all(map(torch.equal, before, _states(rows))):
            return outputs
        with torch.no_grad(), second_run():
            placed, named = arguments(rows.detach())
            again = call(*placed, **named)  # from where the generators stand now
        if _alike(outputs, again):
            return outputs
        where = _first_drawing(call, rows.detach())
    finally:
        _restore(before, rows)
    raise ValueError(
        f"model: {where} draws random numbers, so that the same input gets another score at each call; use "
        "F.dropout(..., training=self.training), or a function that fixes the seed or averages over draws"
    )


def _states(rows: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(rows.device)] if rows.device.type == "cuda" else states


def _restore(states: list[Tensor], rows: Tensor) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], rows.device)


@contextmanager
def other_generators() -> Iterator[list[str]]:
    """Restore Python's and NumPy's global generators; the list names those that moved, once the block has ended."""
    python, numpy = random.getstate(), np.random.get_state()
    moved: list[str] = []
    try:
        yield moved
    finally:
        if random.getstate() != python:
            moved.append("random")
            random.setstate(python)
        now: Any = np.random.get_state()
        if not all(map(np.array_equal, now, numpy)):
            moved.append("numpy.random")
            np.random.set_state(numpy)


def _alike(outputs: Any, again: Any) -> bool:
    try:
        first, second = output_tensor(outputs).detach(), output_tensor(again).detach()
    except TypeError:  # such as a detector's: nothing to compare, so the draws decide
        return False
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-5, atol=1e-6)


def _first_drawing(call: Call, rows: Tensor) -> str:
    """Name the first module, and of nested ones the innermost, in whose forward the generator moves."""
    started: dict[int, Tensor] = {}

    def begin(module: nn.Module, inputs: Any) -> None:
        started[id(module)] = torch.get_rng_state()

    def end(module: nn.Module, outputs: Any) -> bool:
        return not torch.equal(started[id(module)], torch.get_rng_state())

    return _first(call, rows, begin, end)


def first_that_differs(call: Call, rows: Tensor, differ: Callable[[Any, Any], bool]) -> str:
    """Name the first module, and of nested ones the innermost, that gives two outputs in two runs."""
    outputs: list[Any] = []
    start = 0

    def keep(module: nn.Module, found: Any) -> bool:
        outputs.append(found)
        return False

    def is_other(module: nn.Module, found: Any) -> bool:
        nonlocal start
        start += 1
        return start > len(outputs) or differ(found, outputs[start - 1])

    for end in (keep, is_other):
        where = _first(call, rows, lambda module, inputs: None, end)
    return where


def _first(
    call: Call, rows: Tensor, begin: Callable[[nn.Module, Any], None], end: Callable[[nn.Module, Any], bool]
) -> str:
    """Run rows and name the first module to finish for which `end(module, outputs)` is true."""
    if not isinstance(call, nn.Module):
        return "the function"
    found: list[str] = []

    def finish(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if end(module, outputs) and not found:
            found.append(f"{name!r} ({type(module).__name__})" if name else f"the forward of {type(module).__name__}")

    with ExitStack() as stack, torch.no_grad():
        for name, module in call.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(begin).remove)
                stack.callback(module.register_forward_hook(partial(finish, name)).remove)
        placed, named = arguments(rows.clone())
        call(*placed, **named)
    return found[0] if found else "it"
