"""Rows in bfloat16: a copy of the model in that precision, which computes a row in about half the time.

What such a row's score differs by is no error that averages out, so a method that uses these rows corrects them by
rows in the model's own precision: see `methods/two_precision.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..question.targets import Target
from .copying import REFUSALS, copied
from .memory import is_out_of_memory
from .passes import Outcome
from .randomness import run_without_draws
from .runner import Runner

ROW_COST = {"cpu": 0.55, "cuda": 0.5}
"""The time of a bfloat16 row as a share of a float32 row, by device. A constant and no measurement, so that a map
depends on its fields alone: on two cores of Zen 4 the share was 0.56 for ResNet-18, 0.52 for ConvNeXt-T and 0.51 for
ViT-B/16; no GPU was measured."""

_FAILURES = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError)


class Bfloat16Refused(Exception):
    """The model does not run in bfloat16; the message completes "because"."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies in bfloat16: AVX-512 BF16, AMX, or a GPU with it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # Private names of torch, which may be missing in another version.
    features = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(feature()) for feature in features if feature is not None)


class Bfloat16Rows:
    """Runs rows through a bfloat16 copy of a Runner's model; the Runner counts them and bounds their passes.

    `rows` is how many of them were run. Raises Bfloat16Refused for what cannot run so: black boxes, other models than
    float32 ones, targets that read a layer, several targets an example, models that cannot be copied, and those that
    fail on the first of the `inputs`, or give NaN. That row counts too.
    """

    def __init__(self, runner: Runner, inputs: Tensor, target: Target) -> None:
        self.runner = runner
        self.rows = 0
        self.cost = ROW_COST.get(inputs.device.type, ROW_COST["cpu"])
        self._channels_last = runner.channels_last
        self._module = _in_bfloat16(_copied(runner, inputs, target))
        try:
            score = self.once(inputs[:1], torch.zeros(1, dtype=torch.long, device=inputs.device), target).scores
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise Bfloat16Refused(f"the model does not run in it ({type(error).__name__}: {error})") from error
        if not bool(torch.isfinite(score).all()):
            raise Bfloat16Refused("the score is NaN or infinite in it")

    def once(self, rows: Tensor, examples: Tensor, target: Target) -> Outcome:
        """Return outputs and scores of one pass, in the rows' own dtype; NaN and infinity are left in."""
        with torch.no_grad():
            outputs = pytree.tree_map_only(Tensor, lambda each: _like(each, rows), self._call(rows))
            scores = target(outputs, examples).to(rows.dtype)
        self.rows += len(rows)
        self.runner.count(len(rows))
        return Outcome(outputs, scores)

    def _call(self, rows: Tensor) -> Any:
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        try:
            return run_without_draws(self._module, rows.to(torch.bfloat16, memory_format=layout, copy=True))
        except RuntimeError as error:
            if not (self._channels_last and "view size is not compatible" in str(error)):
                raise
            self._channels_last = False  # x.view(...) on a map: the model assumes contiguous memory
            return self._call(rows)


def _copied(runner: Runner, inputs: Tensor, target: Target) -> nn.Module:
    """Return a second copy of the runner's model. Raises Bfloat16Refused."""
    if not runner.differentiable:
        raise Bfloat16Refused("the model is a black box")
    kinds = {each.dtype for each in runner.module.parameters() if each.is_floating_point()} | {inputs.dtype}
    if kinds != {torch.float32}:
        raise Bfloat16Refused(f"the model's numbers are {', '.join(sorted(map(str, kinds)))}, not torch.float32 alone")
    if runner.targets > 1:
        raise Bfloat16Refused("several targets an example share their rows")
    if target.layer:
        raise Bfloat16Refused("the target reads a layer")
    if runner.copy.borrows:
        raise Bfloat16Refused("the model cannot be copied")
    try:
        return copied(runner.module).module
    except REFUSALS as error:
        raise Bfloat16Refused("the model cannot be copied") from error


def _in_bfloat16(module: nn.Module) -> nn.Module:
    # The copy's parameters are its own objects over the user's storage: their data is replaced, not written to.
    try:
        return module.to(torch.bfloat16)
    except _FAILURES as error:
        raise Bfloat16Refused(f"the model's numbers do not convert ({type(error).__name__}: {error})") from error


def _like(output: Tensor, rows: Tensor) -> Tensor:
    return output.to(rows.dtype) if output.is_floating_point() else output
