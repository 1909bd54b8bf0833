"""Whether a score that differs between passes differs by rounding alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base.notes import Note
from ..question.targets import joined_vectors
from .passes import Outcome
from .score import Score

_OUTPUTS = 16  # roundings of the largest output that sums in another order may add up to
_NUDGES = (1, -1, 2, -2, 3, -3, 4, -4)  # changes of an input in its last digit
_MOVES = 4  # times as far as these move a score, another order of additions may


def rounding(
    score: Score, first: Tensor, again: Tensor, outputs: Tensor | None, rows: Tensor, owners: list[int]
) -> Note | None:
    """Return a caution where rounding explains that example 0 has the score `again` as the last of `rows`, not `first`.

    It does where the model's outputs are equal up to their own rounding, or where a change of the input in its last
    digit, in a pass of its own, moves the score as far. `outputs` `(n, outputs)` are those of the batch at x, None
    where they are no vectors; `owners` the examples of the rows. Costs the rows once more, then 10 of example 0.
    """
    runner, own, row = score.runner, score.select([0]), rows[-1:]
    # What a function computes in is not known.
    dtype = runner.precision if runner.differentiable else max(rows.dtype, torch.float32, key=_step)
    name, step = str(dtype).removeprefix("torch."), _step(dtype)

    def run(part: Tensor, places: Tensor) -> Outcome:
        return runner.once(part, score.examples[places], score.target)

    with runner.asking.on("again"):
        found = list(runner.safely(rows, torch.tensor(owners, device=rows.device), run))
    if not torch.equal(found[-1].scores[-1], again):
        return None  # random
    change = float((again - first).abs())
    size = float(torch.maximum(again.abs(), first.abs()))
    told = (
        f"scores are known to {change / size:.1%} only: that of example 0 is {float(first):.6g} or {float(again):.6g}, "
        "depending on the rows of its pass, "
    )
    joined = joined_vectors([each.row_outputs for each in found], len(rows), score.target)
    if outputs is not None and joined is not None:
        largest = float(torch.maximum(outputs.abs().amax(), joined.abs().amax()))
        if float((joined[-1] - outputs[0]).abs().amax()) <= _OUTPUTS * step * largest:
            return Note("caution", f"{told}as outputs of {largest:.2g} are rounded to {step * largest:.2g} in {name}")
    alone = []
    for occasion in ("alone", "alone again"):  # entries of their own in a cache
        with runner.asking.on(occasion):
            alone.append(own.stream_values([row])[0])
    if not torch.equal(*alone):
        return None  # random
    nudged = torch.cat([own.stream_values([row * (1 + nudge * step)])[0] for nudge in _NUDGES])
    moved = float((nudged - alone[0]).abs().amax())
    if moved == 0 or change > _MOVES * moved:
        return None
    return Note("caution", f"{told}as a change of the input in the last digit of {name} moves it by {moved:.2g}")


def _step(dtype: torch.dtype) -> float:
    """Return the distance from 1 to the next number; 0 for quantised numbers, of which it is not known."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
