"""When a Runner's passes run on packed weights: where they are proven, for the time that a method asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from .layers import Modules
from .model_copy import ModelCopy
from .packed import NotPacked, PackedWeights, repays


class Packing:
    """The packed weights of one call's copy, and whether passes use them now.

    `copy` is None for a black box. `row` `(1, *features)` is what packed rows are proven on; `say` takes a note.
    """

    def __init__(self, copy: ModelCopy | None, modules: Modules, row: Tensor, say: Callable[[str], None]) -> None:
        self._copy, self._modules, self._row, self._say = copy, modules, row, say
        self._weights: PackedWeights | None = None
        self._packs = self._refused = False
        self.apart: tuple[str, ...] = ()  # layers that the call names: their own outputs may be asked for

    @property
    def is_kept(self) -> bool:
        """Whether the model was prepared and keeps what is packed for it, so that every row of it is packed."""
        return self._copy is not None and self._copy.kept is not None and self._copy.kept.pooled

    @property
    def repays(self) -> bool:
        """Whether many rows of this model are cheaper on packed weights."""
        return self._copy is not None and repays(self._modules, self._row)

    @property
    def weights(self) -> PackedWeights | None:
        """What the next pass runs on; None where it is plain."""
        return self._weights if self._packs else None

    @property
    def folds(self) -> frozenset[str]:
        """The convolutions whose norms the next pass folds: they return what the norm does."""
        return self.weights.folds(self._modules, self.apart) if self.weights else frozenset()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Run the pass made while this is open as `weights` says."""
        with self.weights.installed(self._modules, self.apart) if self.weights else nullcontext():
            yield

    @contextmanager
    def wanted(self, gradient: bool) -> Iterator[None]:
        """Run the passes made while this is open on packed weights, if those are proven to be the same function.

        `gradient`: whether the passes take gradients. The proof runs one row twice, which counts nowhere; where it
        fails a note says why, and the passes stay plain.
        """
        before = self._packs
        self._packs = self._packs or self._prove(gradient)
        try:
            yield
        finally:
            self._packs = before and not self._refused

    def refuse(self, reason: str) -> None:
        """Run plain passes from now on, for this reason."""
        self._refused, self._packs = True, False
        self._say(f"plain rows and not packed ones: {reason}")

    def _prove(self, gradient: bool) -> bool:
        if self._refused:
            return False
        try:
            if self._copy is None or self._copy.borrows:
                raise NotPacked("they need a module that can be copied")
            if self._weights is None or (gradient and not self._weights.with_gradient):
                self._weights = self._known_or_proven(self._copy, gradient)
        except NotPacked as reason:
            self.refuse(str(reason))
        return not self._refused

    def _known_or_proven(self, copy: ModelCopy, gradient: bool) -> PackedWeights:
        """Return the packed weights, which a prepared model keeps. Raises NotPacked."""
        shape = tuple(self._row.shape[1:])
        known = copy.kept.packed.get(shape) if copy.kept is not None else None
        if isinstance(known, NotPacked):
            raise known
        if isinstance(known, PackedWeights) and (known.with_gradient or not gradient):
            return known
        found: PackedWeights | NotPacked
        try:
            found = self._proven(copy, gradient)
        except NotPacked as reason:
            found = reason
        if copy.kept is not None:
            copy.kept.packed[shape] = found
        if isinstance(found, NotPacked):
            raise found
        return found

    def _proven(self, copy: ModelCopy, gradient: bool) -> PackedWeights:
        copy.prove(self._row)
        if copy.proof is not None and copy.proof.precision != torch.float32:
            raise NotPacked(f"the model computes in {copy.proof.precision} inside")
        return PackedWeights.proven(copy.module, self._row, gradient)
