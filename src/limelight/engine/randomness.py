"""Whether a model draws random numbers as it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..question.targets import output_tensor

Call = Callable[[Tensor], Any]


def run_without_draws(call: Call, rows: Tensor) -> Any:
    """Call the model and return its outputs; the generators are as before.

    A model that draws random numbers and answers alike, such as one that seeds itself, is accepted. Raises ValueError
    that names the layer for one whose answer is another at each call: a map would explain the draw.
    """
    before = _states(rows)
    try:
        outputs = call(rows)
        if all(map(torch.equal, before, _states(rows))):
            return outputs
        with torch.no_grad():
            again = call(rows.detach())  # from where the generators stand now
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


def _alike(outputs: Any, again: Any) -> bool:
    try:
        first, second = output_tensor(outputs).detach(), output_tensor(again).detach()
    except TypeError:  # such as a detector's: nothing to compare, so the draws decide
        return False
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-5, atol=1e-6)


def _first_drawing(call: Call, rows: Tensor) -> str:
    """Name the first module, and of nested ones the innermost, in whose forward the generator moves."""
    if not isinstance(call, nn.Module):
        return "the function"
    found: list[str] = []
    started: dict[int, Tensor] = {}

    def watch(name: str, module: nn.Module, stack: ExitStack) -> None:
        def begin(*_: object) -> None:
            started[id(module)] = torch.get_rng_state()

        def end(*_: object) -> None:
            if not found and not torch.equal(started[id(module)], torch.get_rng_state()):
                found.append(
                    f"{name!r} ({type(module).__name__})" if name else f"the forward of {type(module).__name__}"
                )

        for handle in (module.register_forward_pre_hook(begin), module.register_forward_hook(end)):
            stack.callback(handle.remove)

    with ExitStack() as stack, torch.no_grad():
        for name, module in call.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                watch(name, module, stack)
        call(rows)
    return found[0] if found else "it"
