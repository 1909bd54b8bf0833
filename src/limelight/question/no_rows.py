"""What to give in place of inputs that are no tensor, in the words of what was given."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.text import TextModel

_MODELS = (
    "a model reads the paths of pictures as limelight.ImageModel(module, Preprocessing(...)), and texts as "
    "limelight.TextModel(module, tokenizer)"
)


def not_rows(inputs: Any, model: Any) -> str:
    """Return why inputs that are no tensor are refused where rows are taken, and what to give in their place."""
    first = next(iter(inputs)) if isinstance(inputs, list | tuple) and inputs else inputs
    if isinstance(first, str) and isinstance(model, TextModel):
        return (
            "a text, where this function takes its tokens; use x, given = model.tokens(texts), then x as inputs with "
            "given=given"
        )
    pictures = callable(getattr(model, "preprocess", None))
    picture = _is_picture(first)
    if picture or isinstance(first, str | Path):
        what = "a picture" if picture else f"{str(first)!r}"
        if pictures:
            return f"{what}, where this function takes a tensor; use model.preprocess(picture)"
        return f"{what}, and {type(model).__name__} takes tensors; {_MODELS}"
    kind = type(inputs).__name__
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else ()
    if any(isinstance(each, Tensor) for each in parts):
        return f"{kind} of tensors, where this function takes one tensor; use one, and the others as given="
    if any(hasattr(each, "__array__") for each in parts):
        return f"{kind} of {type(first).__name__}, and not of tensors; use torch.as_tensor for each"
    return f"{kind}, not a torch.Tensor of shape (batch, *features){as_a_tensor('inputs', inputs)}"


def as_a_tensor(name: str, value: Any) -> str:
    """Return how to make a tensor of an array, a table or a list that an argument has; empty for other values."""
    if callable(getattr(value, "to_numpy", None)):
        return f"; use torch.as_tensor({name}.to_numpy())"
    if isinstance(value, list | tuple) or hasattr(value, "__array__"):
        return f"; use torch.as_tensor({name})"
    return ""


def _is_picture(value: Any) -> bool:
    library = sys.modules.get("PIL.Image")  # who has a picture has imported it; the import costs others time
    return library is not None and isinstance(value, library.Image)
