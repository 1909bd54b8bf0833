"""Activation checkpointing, which drops activations and runs a part of the model again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch._C._autograd import _top_saved_tensors_default_hooks
from torch.autograd.graph import saved_tensors_hooks


def is_checkpointing() -> bool:
    """Whether activations that are saved here would be dropped and computed again, as inside of a checkpoint."""
    return _top_saved_tensors_default_hooks(False) is not None


def keeping_activations() -> saved_tensors_hooks:
    """Keep what operators save while this is open: these hooks are the innermost, and overrule a checkpoint's."""
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def refuse_reentrant(nodes: Iterable[Any]) -> None:
    """Raise ValueError for a reentrant checkpoint: torch takes no gradient at chosen tensors through it."""
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes):
        raise ValueError(
            "model: it checkpoints activations with use_reentrant=True, through which torch takes no gradient at "
            "chosen tensors; use use_reentrant=False, or switch checkpointing off"
        )
