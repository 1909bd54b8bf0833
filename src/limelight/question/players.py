"""Players: the parts of an input that are kept or removed as a whole, given as a map of labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.named import Named, is_whole, require, require_whole
from ..base.text import Text
from .baselines import Baseline
from .given import as_tensor
from .random_streams import Streams


@dataclass(frozen=True, eq=False)
class Division:
    """The player of each position: `labels` `(n, 1, *space)`, or `(n, *features)` if channels are separate players.

    The players of example i are 0 to `counts[i]` - 1; each has at least one position. `stays`: positions with the label
    `most` belong to no player and are always present, as the special tokens of a text are.
    """

    labels: Tensor
    counts: tuple[int, ...]
    stays: bool = False

    @property
    def most(self) -> int:
        return max(self.counts)

    def sizes(self) -> Tensor:
        """Return the number of positions of each player, `(n, most)`; 0 beyond an example's own players."""
        flat = self.labels.flatten(1)
        found = torch.zeros(len(flat), self.most + self.stays, dtype=torch.long, device=flat.device)
        return found.scatter_add_(1, flat, torch.ones_like(flat))[:, : self.most]

    def spread(self, values: Tensor) -> Tensor:
        """Divide each player's number `(n, most)` equally among its positions, which keeps the sum."""
        share = values / self.sizes().clamp(min=1).to(values.device)
        if self.stays:
            share = F.pad(share, (0, 1))
        return share.gather(1, self.labels.flatten(1).to(values.device)).reshape(self.labels.shape)

    def present(self, example: Tensor, coalitions: Tensor) -> Tensor:
        """Mark the positions in `coalitions` `(rows, most)`, of example `example[r]` for row r; broadcasts to rows."""
        labels = self.labels[example]
        if self.stays:
            coalitions = F.pad(coalitions, (0, 1), value=True)
        return coalitions.gather(1, labels.flatten(1)).reshape(labels.shape)

    def centres(self, example: int) -> Tensor:
        """Return the mean coordinates `(players, axes)` of each player's positions."""
        labels = self.labels[example]
        places = torch.stack(torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij")).flatten(1).double()
        owner = labels.flatten().cpu()
        if self.stays:
            own = owner < self.most
            places, owner = places[:, own], owner[own]
        total = torch.zeros(self.counts[example], len(places), dtype=torch.float64).index_add_(0, owner, places.T)
        return total / owner.bincount(minlength=self.counts[example])[:, None]


class Players(Named, ABC):
    """A way to divide an input into players. All channels of a position belong to one player."""

    finds: ClassVar[bool] = False
    """Whether a segmentation of the input decides how many players there are, which the notes then say."""

    @abstractmethod
    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        """Return integers `(n, 1, *space)` or `(n, *features)` for x `(n, *features)`; equal ones are one player.

        `examples` `(n,)` are the rows' indices in the user's batch, for players given per example.
        """

    @abstractmethod
    def count(self, features: torch.Size) -> int | None:
        """Return the number of players of an input of this shape; None if it depends on the content."""

    def named(self, names: Sequence[str]) -> Self:
        """Return the players with the names of the columns, where they are given by name."""
        return self

    def divide(self, x: Tensor, examples: Tensor, texts: Sequence[Text] = ()) -> Division:
        """Return the players of x. `texts`: the text of each row, where x are the embeddings of its tokens."""
        if texts:
            return divided(self.labels(x, examples), kept(texts, x.shape[-1], x.device)[:, None])
        labels = self.labels(x, examples)
        found = [torch.unique(each, return_inverse=True)[1] for each in labels]
        return Division(torch.stack(found), tuple(int(each.max()) + 1 for each in found))


@dataclass(frozen=True)
class Features(Players):
    """Each number of the input is a player."""

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        return torch.arange(x[0].numel(), device=x.device).reshape(x.shape[1:]).expand(x.shape)

    def count(self, features: torch.Size) -> int:
        return features.numel()


@dataclass(frozen=True)
class Pixels(Players):
    """Each position is a player with all its channels."""

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        space = _space(x.shape[1:], self)
        return torch.arange(space.numel(), device=x.device).reshape(1, 1, *space).expand(len(x), 1, *space)

    def count(self, features: torch.Size) -> int:
        return _space(features, self).numel()


@dataclass(frozen=True)
class Grid(Players):
    """Rectangular cells: `cells` along each spatial axis, one number or one per axis; never smaller than a pixel."""

    cells: int | tuple[int, ...] = 14

    def __post_init__(self) -> None:
        each = self.cells if isinstance(self.cells, tuple) else (self.cells,)
        fits = bool(each) and all(is_whole(cells, 1) for cells in each)
        require(fits, self, "cells", "a whole number of 1 or more, or one per axis")

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        space = _space(x.shape[1:], self)
        label = torch.zeros(space, dtype=torch.long, device=x.device)
        for axis, (size, cells) in enumerate(zip(space, self._along(space), strict=True)):
            place = torch.arange(size, device=x.device) * cells // size
            label = label * cells + place.view(-1, *[1] * (len(space) - axis - 1))
        return label.expand(len(x), 1, *space)

    def count(self, features: torch.Size) -> int:
        return int(np.prod(self._along(_space(features, self))))

    def _along(self, space: torch.Size) -> tuple[int, ...]:
        cells = self.cells if isinstance(self.cells, tuple) else (self.cells,) * len(space)
        if len(cells) != len(space):
            raise ValueError(
                f"players: {self!r} for positions of shape {tuple(space)}; use one number, or one per axis"
            )
        return tuple(min(each, size) for each, size in zip(cells, space, strict=True))


class _Segmented(Players):
    """Base of players found by a segmentation algorithm of scikit-image in the picture, scaled to [0, 1]."""

    finds: ClassVar[bool] = True

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"players: {self!r} needs pictures (batch, channels, H, W), not {tuple(x.shape)}")
        try:
            from skimage import segmentation
        except ImportError as error:
            name = type(self).__name__
            raise ImportError(f"players: {name} needs scikit-image: pip install 'limelight[segments]'") from error
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        pictures = ((x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)).movedim(1, -1).double().cpu().numpy()
        labels = np.stack([self.segments(segmentation, picture) for picture in pictures])
        return torch.from_numpy(labels).long()[:, None].to(x.device)

    @abstractmethod
    def segments(self, skimage: Any, picture: np.ndarray) -> Any:
        """Return labels `(H, W)` of a picture `(H, W, channels)` in [0, 1], by the module `skimage.segmentation`."""

    def count(self, features: torch.Size) -> None:
        return None


@dataclass(frozen=True)
class Slic(_Segmented):
    """About `number` superpixels, by k-means on colour and position. Needs scikit-image. [achanta2012]"""

    number: int = 50
    compactness: float = 10.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        require_whole(self, "number", 1)

    def segments(self, skimage: Any, picture: np.ndarray) -> Any:
        return skimage.slic(picture, self.number, self.compactness, sigma=self.sigma, start_label=0, channel_axis=-1)


@dataclass(frozen=True)
class Felzenszwalb(_Segmented):
    """Regions whose borders differ more than their interiors. Needs scikit-image. [felzenszwalb2004]"""

    scale: float = 100.0
    sigma: float = 0.5
    min_size: int = 50

    def segments(self, skimage: Any, picture: np.ndarray) -> Any:
        return skimage.felzenszwalb(picture, self.scale, self.sigma, self.min_size, channel_axis=-1)


@dataclass(frozen=True, eq=False)
class Segments(Players):
    """A given map of integer labels: `(*space)` for all examples, or `(batch, *space)`.

    With labels for each channel it is `(1, channels, *space)` or `(batch, channels, *space)`. Of inputs given as a
    tuple or mapping it is one with a map `(*features)` for each part; a label that several parts share is one player.
    """

    map: Tensor

    @property
    def of_parts(self) -> Mapping[str, Tensor] | None:
        """The map of each part by name, where there are several."""
        given: Any = self.map
        return given if isinstance(given, Mapping) else None

    def __post_init__(self) -> None:
        given: Any = self.map
        if isinstance(given, Mapping) or (isinstance(given, tuple) and all(isinstance(each, Tensor) for each in given)):
            parts = given.items() if isinstance(given, Mapping) else enumerate(given)
            object.__setattr__(self, "map", {str(name): Segments(each).map for name, each in parts})
            return
        object.__setattr__(self, "map", as_tensor(self.map))
        if self.map.is_floating_point() or self.map.numel() == 0:
            raise ValueError(
                f"players: Segments.map is {self.map.dtype} of shape {tuple(self.map.shape)}; use integer labels (H, W)"
            )

    def per_example(self, x: Tensor) -> bool:
        """Return whether the map has an entry for each example: a batch axis before the spatial axes of x, or before
        its channels."""
        self._require_one()
        return self.map.ndim == max(x.ndim - 2, 1) + 1 or (self.map.ndim == x.ndim and len(self.map) > 1)

    def _require_one(self) -> None:
        if self.of_parts is not None:
            names = ", ".join(self.of_parts)
            raise ValueError(f"players: Segments of the parts {names} for one tensor; give inputs of these parts")

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        self._require_one()
        space, given = x.shape[2:] if x.ndim > 2 else x.shape[1:], tuple(self.map.shape)
        labels = self.map.to(x.device)
        if x.ndim > 2 and given[1:] == tuple(x.shape[1:]) and (given[0] == 1 or int(examples.max()) < given[0]):
            return labels.expand(x.shape) if given[0] == 1 else labels[examples]
        if given == tuple(space):
            labels = labels.expand(len(x), *space)
        elif given[1:] == tuple(space) and int(examples.max()) < given[0]:
            labels = labels[examples]
        else:
            raise ValueError(
                f"players: Segments.map has shape {given}; use {tuple(space)}, or one for each of the batch's examples"
            )
        return labels[:, None] if x.ndim > 2 else labels

    def count(self, features: torch.Size) -> int | None:
        space = features[1:] if len(features) > 1 else features
        for_all = self.of_parts is None and self.map.shape in (space, (1, *features))
        return len(self.map.unique()) if for_all else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segments):
            return False
        mine, theirs = self._maps(), other._maps()
        return mine.keys() == theirs.keys() and all(torch.equal(each, theirs[name]) for name, each in mine.items())

    def __hash__(self) -> int:
        maps = self._maps().items()
        return hash((type(self), *((name, tuple(each.shape), int(each.sum())) for name, each in maps)))

    def _maps(self) -> Mapping[str, Tensor]:
        return {"": self.map} if self.of_parts is None else self.of_parts


def kept(texts: Sequence[Text], length: int, device: torch.device) -> Tensor:
    """Mark the positions `(texts, length)` that no player and no baseline touches: special tokens and padding."""
    rows = [[*text.special, *[True] * (length - len(text))] for text in texts]
    return torch.tensor(rows, device=device)


def divided(labels: Tensor, stays: Tensor) -> Division:
    """Return the players of labels `(n, 1, *space)` or `(n, *features)`, without the positions that stay."""
    stays = stays.expand(labels.shape)
    found = [torch.unique(each[~own], return_inverse=True)[1] for each, own in zip(labels, stays, strict=True)]
    empty = [place for place, each in enumerate(found) if not len(each)]
    if empty:
        raise ValueError(f"players: the text of example {empty[0]} has special tokens alone; give at least one word")
    counts = tuple(int(each.max()) + 1 for each in found)
    whole = torch.full_like(labels, max(counts))
    for row, own, each in zip(whole, stays, found, strict=True):
        row[~own] = each
    return Division(whole, counts, stays=True)


_FOR_EXAMPLE = "Grid(14), Slic(50), Windows(8), Words() or Segments(label_map)"


def require_players(thing: Any, such: str = _FOR_EXAMPLE, none: bool = False) -> None:
    """Raise ValueError unless the setting `players` of a value holds some; `none`: None stands for the default ones."""
    fits = isinstance(thing.players, Players) or (none and thing.players is None)
    require(fits, thing, "players", f"players such as {such}")


@dataclass(frozen=True)
class SegmentMean(Baseline):
    """Each segment filled with its mean value, which removes texture and keeps colour."""

    players: Players = Grid()

    def __post_init__(self) -> None:
        require_players(self)

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        division = self.players.divide(inputs, torch.arange(len(inputs), device=inputs.device))
        labels = division.labels.expand(inputs.shape).flatten(2) if inputs.ndim > 2 else division.labels[:, None]
        values = inputs.reshape(labels.shape)
        total = values.new_zeros(*labels.shape[:2], division.most)
        mean = total.scatter_add(2, labels, values) / total.scatter_add(2, labels, torch.ones_like(values)).clamp(min=1)
        return mean.gather(2, labels).reshape(inputs.shape)[None]


def _space(features: torch.Size, players: Players) -> torch.Size:
    if len(features) < 2:
        raise ValueError(
            f"players: {players!r} needs spatial axes, an example has shape {tuple(features)}; use Features()"
        )
    return features[1:]
