"""Copies of a model with a constant added to all of its class scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from torch import Tensor, nn

from ..base.errors import NotApplicable
from ..base.types import Model
from ..engine.model_copy import editable_copy
from ..question.targets import tensor_in


@contextmanager
def output_shifted(model: Model, shift: float) -> Iterator[nn.Module]:
    """Yield a copy of the model that returns $z_k + c$ in place of each class score $z_k$, with c = `shift`.

    Class scores are the outputs, or what targets read of them: see `output_tensor`. Layers keep their names. Raises
    ValueError for a black box or a model that cannot be copied; the copy raises NotApplicable where its outputs hold no
    class scores.
    """
    with editable_copy(model, "cannot be changed") as copied:
        handle = copied.register_forward_hook(lambda module, given, outputs: _shifted(outputs, shift))
        try:
            yield copied
        finally:
            handle.remove()


def _shifted(outputs: Any, shift: float) -> Any:
    if isinstance(outputs, Tensor):
        return outputs + shift
    found = tensor_in(outputs)
    if found is None:
        raise NotApplicable(f"the model returns {type(outputs).__name__}, in which no class scores are known")
    name, tensor = found
    if isinstance(outputs, tuple | list):
        if hasattr(outputs, "_replace"):
            return outputs._replace(**{name: tensor + shift})
        return type(outputs)(tensor + shift if str(place) == name else each for place, each in enumerate(outputs))
    changed = copy(outputs)
    if isinstance(changed, Mapping):
        changed[name] = tensor + shift  # type: ignore[index]
    else:
        setattr(changed, name, tensor + shift)
    return changed
