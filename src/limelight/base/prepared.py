"""What the question needs to know of a prepared model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from .types import LayerLike


@runtime_checkable
class PreparedModel(Protocol):
    """A snapshot of a module; see `limelight.Prepared`."""

    @property
    def snapshot(self) -> nn.Module:
        """The module that is explained: the snapshot, under the names of the original's layers."""
        ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def axes(self) -> str | None: ...

    def layer(self, layer: LayerLike | None) -> Any:
        """Return a layer with the modules of the original named."""
        ...
