"""What became of the relevance: the part that a map keeps, and what biases, stabilisers and softmax took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..base.notes import Note
from .audit import tensors
from .call import Call, active, by_channel
from .names import words

LITTLE, MUCH = 0.1, 100  # shares of the score; a map whose values sum to less or to more gets a caution
NEGATIVE = 0.005  # share of a probability map's |values|; a map with more of it negative gets a caution
# What takes relevance: terms that are added; what stands where no input does (class tokens, padding, constants that win
# a maximum); stabilisers; outputs to which no input contributes, such as those of dead channels under bias=False; the
# constant term of softmax's expansion; operators such as the sigmoid where they get 0.
BIASES, CONSTANTS, EPSILON = "biases", "constants", "epsilon"
STRANDED, SOFTMAX, ZEROS = "outputs without contributing inputs", "softmax", "activations at 0"
_REST = "operators without a rule and rounding"
# Operators that may bring in a constant beside what varies, by which their output at zero is not zero.
JOINING = words("""
    add sub rsub cat stack hstack vstack dstack column_stack pad constant_pad_nd where masked_fill setitem copy
    index_put index_add scatter scatter_add select_scatter slice_scatter block_diag
""")
_STACKING = words("cat stack hstack vstack dstack column_stack block_diag")


@dataclass(frozen=True)
class Shares:
    """The balance of each row: `total` = `kept` + what was `taken`, by name, + a remainder, tensors `(rows,)`.

    `total` is what the pass began with, the score or 1 (then `of_one`); `kept` is the sum of the values. `taken` holds
    NaN where a pass of several rows mixes their axes so that only a pass of one row tells.
    """

    total: Tensor
    kept: Tensor
    taken: Mapping[str, Tensor]
    of_one: bool = False
    negative: Tensor | None = None  # of a probability map, the part of |values| that is negative `(rows,)`

    @staticmethod
    def of(total: Tensor, values: Tensor, taken: Mapping[str, Tensor], of_one: bool) -> Shares:
        """Balance a pass. Rows whose accounts are off while their sum is right were told apart wrongly."""
        kept = values.detach().flatten(1).sum(1)
        found = Shares(total, kept, dict(taken), of_one)
        rest = found.remainder
        turnover = total.abs() + kept.abs() + sum((each.abs() for each in taken.values()), torch.zeros_like(total))
        rounding = 1e4 * torch.finfo(total.dtype).eps * float(turnover.nan_to_num(0.0).sum())
        mixed = len(total) > 1 and not bool((rest.abs() <= 10 * rest.sum().abs() + rounding).all())
        if mixed:
            return Shares(total, kept, {name: torch.full_like(total, torch.nan) for name in taken}, of_one)
        return found

    @staticmethod
    def joined(parts: Sequence[Shares | None]) -> Shares | None:
        """Return the shares of all rows from those of passes; None where a pass has none."""
        known = [each for each in parts if each is not None]
        if not known or len(known) < len(parts):
            return None
        names = dict.fromkeys(name for each in known for name in each.taken)
        taken = {
            name: torch.cat([each.taken.get(name, torch.zeros_like(each.total)) for each in known]) for name in names
        }
        total, kept = torch.cat([each.total for each in known]), torch.cat([each.kept for each in known])
        negative = [each.negative for each in known if each.negative is not None]
        return Shares(total, kept, taken, known[0].of_one, torch.cat(negative) if negative else None)

    def of_probability(self, values: Tensor) -> Shares:
        """Return the same with the part of these probabilities that is negative, which no probability is."""
        values = values.flatten(1)
        size = values.abs().sum(1)
        return replace(self, negative=values.clamp(max=0).abs().sum(1) / size.clamp(min=torch.finfo(size.dtype).tiny))

    @property
    def remainder(self) -> Tensor:
        """What nothing accounts for: operators that were left to the gradient, and rounding."""
        return self.total - self.kept - sum(self.taken.values(), torch.zeros_like(self.total))

    @property
    def signed(self) -> Tensor:
        """Rows `(rows,)` whose probabilities are negative in more than NEGATIVE of their size."""
        return torch.zeros_like(self.total, dtype=torch.bool) if self.negative is None else self.negative > NEGATIVE

    def notes(self) -> tuple[Note, ...]:
        """Return a note for each row, a caution where the map keeps little or changes the sign, and one for each whose
        probabilities are negative."""
        return (*map(self._note, range(len(self.total))), *map(self._signed, self.signed.nonzero()[:, 0].tolist()))

    def _signed(self, row: int) -> Note:
        assert self.negative is not None
        return Note(
            "caution",
            f"NO PROBABILITIES: {float(self.negative[row]):.2%} of the map (of |values|) is negative: sums, norms "
            "and attention hand on terms of both signs, for which the walk is not defined",
            row,
        )

    def _note(self, row: int) -> Note:
        total, kept = float(self.total[row]), float(self.kept[row])
        whole = "the probability 1" if self.of_one else f"the score {total:.4g}"
        text = f"the values sum to {kept:.4g} of {whole}{_percent(kept, total)}"
        taken = {name: float(each[row]) for name, each in self.taken.items()}
        if any(each != each for each in taken.values()):
            text += f"; {', '.join(taken)} took the rest, how much each is told with rows_per_pass=1"
        else:
            taken[_REST] = float(self.remainder[row])
            least = 5e-4 * max(abs(total), abs(kept), *map(abs, taken.values()))
            told = [
                f"{name} took {each:.4g}{_percent(each, total)}" for name, each in taken.items() if abs(each) > least
            ]
            text += "; " * bool(told) + ", ".join(told)
        share = kept / total if total else 1.0
        if LITTLE <= share <= MUCH:
            return Note("fact", text, row)
        why = "OTHER SIGN" if share < -LITTLE else "LITTLE KEPT" if share < LITTLE else "OUT OF SCALE"
        return Note("caution", f"{why}: {text}; the map says little about where the score comes from", row)


def _percent(part: float, whole: float) -> str:
    if whole == 0:
        return ""
    share = part / whole
    if abs(share) >= 100:
        return f" ({share:.2g} times it)"
    return f" ({share:.0%})" if abs(share) >= 0.095 else f" ({100 * share:.2g}%)"


def by_row(relevance: Tensor, rows: int, interleaved: bool = False) -> Tensor:
    """Sum relevance for each row `(rows,)`: along the first axis, or the second of sequence-first tensors, or blocks of
    the first (windows, frames), which may be interleaved. Where no axis fits all is put on the first row, which
    `Shares.of` finds out."""
    if rows == 1:
        return relevance.sum().view(1)
    if relevance.ndim > 1 and relevance.shape[0] != rows == relevance.shape[1]:
        relevance = relevance.transpose(0, 1)
    if relevance.ndim and relevance.shape[0] % rows == 0:
        if interleaved and relevance.shape[0] > rows:
            return relevance.reshape(-1, rows, relevance[0].numel()).sum((0, 2))
        return relevance.reshape(rows, -1).sum(1)
    return torch.cat([relevance.sum().view(1), relevance.new_zeros(rows - 1)])


def interleaves(x: Tensor, rows: int) -> bool:
    """Whether the first axis of x was made of a sequence-first tensor's first two, by the reshape that came last."""
    node, steps = x.grad_fn, 0
    while node is not None and steps < 6:
        sizes = tuple(getattr(node, "_saved_self_sym_sizes", ()))
        if len(sizes) > 1:
            return bool(sizes[0] != rows == sizes[1] and sizes[0] * rows == x.shape[0])
        node, steps = next((parent for parent, _ in node.next_functions if parent is not None), None), steps + 1
    return False


def constant_part(call: Call) -> Tensor | None:
    """Return the output of an affine call where all that varies is zero: biases, tokens, padding. None where there is
    none. Call it before an operator that writes into its operand runs."""
    if call.kind == "maximum":
        return None if all(map(active, call.operands)) else _won_by_constants(call)
    norm = call.kind in ("batch_norm", "normalisation")
    if not (norm or call.bias is not None or (call.name in JOINING and _joins(call))):
        return None
    if call.bias is not None:
        return by_channel(call.bias.detach(), max(call.args[1].ndim - 2, 0))
    args: list[Any] = [_zero(each) for each in call.args]
    if call.in_place or call.name == "setitem":
        args[0] = args[0].clone()
    with torch.no_grad():
        made = call.func(*args, **{key: _zero(each) for key, each in call.kwargs.items()})
    found = args[0] if call.name == "setitem" else made
    if not isinstance(found, Tensor):
        return None
    found = torch.where(found.isfinite(), found, 0.0)  # a masked attention score is -inf and carries no relevance
    return found if bool(found.any()) else None


def taker_of(call: Call) -> str:
    """Name what the constant part of this call is."""
    return (
        BIASES if call.name in ("add", "sub", "rsub") or call.kind not in ("plain", "where", "maximum") else CONSTANTS
    )


def _won_by_constants(call: Call) -> Tensor:
    """Return the outputs of a maximum where a constant won, else 0, at ties in part."""
    with torch.enable_grad():
        operands = torch.broadcast_tensors(*(operand.detach() for operand in call.operands))
        leaves = [
            operand.clone().requires_grad_(active(own)) for operand, own in zip(operands, call.operands, strict=True)
        ]
        y: Tensor = call.run(*leaves)
        varying = [leaf for leaf in leaves if leaf.requires_grad]
        slopes = torch.autograd.grad(y.sum(), varying)
    won = sum((leaf.detach() * slope for leaf, slope in zip(varying, slopes, strict=True)), torch.zeros_like(y))
    return y.detach() - won


def _joins(call: Call) -> bool:
    """Whether there is a tensor that does not vary, or a number, which in joining tensors is but an axis."""
    given = (*call.args, *call.kwargs.values())
    numbers = call.name not in _STACKING and any(isinstance(each, (int, float)) and each != 0 for each in given)
    return numbers or any(not active(each) for each in tensors(given))


def _zero(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_zero, value)) if type(value) in (list, tuple) else value
    if isinstance(value, Tensor):
        return torch.zeros_like(value) if active(value) else value.detach()
    return value
