"""What a model's outputs mean: declared, told by the operator that made them, or read from each example's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..base.notes import Note
from ..base.types import Outputs

OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)

_ROUNDED = 5e-4  # a number with three decimals is off by at most this
_ARITHMETIC = 1e-6  # by which float32 may carry a probability past 0 or 1
_MEANT_FOR = {
    "labels": "a target needs scores: return probabilities or logits instead",
    "embeddings": "use target=Similarity(reference)",
    "regions": "use target=Region(mask, label)",
    "detections": "use target=Box(box, label)",
}


@dataclass(frozen=True)
class Reading:
    """The meaning of the outputs of each example, and what it was read from."""

    kinds: tuple[Outputs, ...]
    by: Literal["declaration", "operator", "values"]

    def notes(self, matters: bool) -> list[Note]:
        """Return what a reader should know; a guess that `matters` to the score is a caution. Logits go without."""
        how = {"declaration": "declared", "operator": "by the operator that made them", "values": "by their values"}
        kind: Literal["caution", "fact"] = "caution" if matters and self.by == "values" else "fact"
        advice = "; say outputs=... if they are something else" if kind == "caution" else ""

        def text(read: Outputs) -> str:
            return f"the model's outputs are read as {read}, {how[self.by]}{advice}"

        if len(set(self.kinds)) == 1:
            return [] if self.kinds[0] == "logits" else [Note(kind, text(self.kinds[0]))]
        return [Note(kind, text(read), i) for i, read in enumerate(self.kinds) if read != "logits"]


def _between_0_and_1(row: Tensor) -> bool:
    return bool(((row >= -_ARITHMETIC) & (row <= 1 + _ARITHMETIC)).all())


def kind_of(row: Tensor) -> Outputs:
    """Return what the outputs `(outputs,)` of one example are by their values.

    All in [0, 1] with a sum of at most 1, allowing for three decimals: probabilities; with a larger one, and for a
    single output: sigmoids. All others are logits, and so are zeros alone, which give no class a chance.
    """
    if not _between_0_and_1(row) or not bool(row.any()):
        return "logits"
    most = 1.01 + len(row) * _ROUNDED
    return "probabilities" if len(row) > 1 and float(row.double().sum()) <= most else "sigmoids"


def read_outputs(outputs: Tensor, declared: Outputs | None, made_by: Outputs | None) -> Reading:
    """Read the outputs `(examples, outputs)` at the inputs. Raises ValueError where the declaration does not hold."""
    if declared is not None:
        if declared in ("probabilities", "sigmoids"):
            for i, row in enumerate(outputs.detach()):
                if not _between_0_and_1(row):
                    low, high = float(row.min()), float(row.max())
                    raise ValueError(
                        f"outputs: declared {declared!r}, and those of example {i} run from {low:.4g} to {high:.4g}; "
                        "probabilities are between 0 and 1"
                    )
        return Reading((declared,) * len(outputs), "declaration")
    if made_by is not None:
        return Reading((made_by,) * len(outputs), "operator")
    return Reading(tuple(map(kind_of, outputs.detach())), "values")


def confidences(outputs: Tensor, kind: str) -> Tensor:
    r"""Return the probabilities of classes `(..., outputs)`: the softmax of logits, $\sigma$ of a single one.

    Probabilities and sigmoids are returned unchanged; NaN for what has none, such as a regression's number.
    """
    if kind in ("probabilities", "sigmoids"):
        return outputs
    if kind != "logits" or outputs.shape[-1] < 2:
        return outputs.new_full(outputs.shape, float("nan"))
    return outputs.softmax(-1)


def declared_outputs(model: object) -> Outputs | None:
    """Return what the model itself says that its outputs are, in its attribute `outputs`."""
    outputs = getattr(model, "outputs", None)
    return outputs if isinstance(outputs, str) and outputs in OUTPUTS else None


def require_outputs(outputs: object) -> None:
    """Raise ValueError unless this is None or one of `OUTPUTS`."""
    if outputs is not None and outputs not in OUTPUTS:
        raise ValueError(f"outputs: {outputs!r}; use {', '.join(map(repr, OUTPUTS))} or None")


def require_classes(declared: Outputs | None) -> None:
    """Raise ValueError where a target about a class cannot read outputs of the declared meaning."""
    if declared in _MEANT_FOR:
        raise ValueError(f"outputs: declared {declared!r}, which have no score of a class; {_MEANT_FOR[declared]}")


def alike(kinds: Sequence[Outputs]) -> Outputs | None:
    """Return the meaning that all examples share; None where they differ."""
    return kinds[0] if kinds and len(set(kinds)) == 1 else None
