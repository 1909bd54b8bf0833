"""Players: the parts of an input that a game gives or takes away as a whole, as a map of labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..base.named import Named
from .baselines import Baseline
from .random_streams import Streams


@dataclass(frozen=True, eq=False)
class Division:
    """Who owns which position: `labels` `(n, 1, *space)` or, where each channel counts by itself, `(n, *features)`.

    Example i's players are 0 to `counts[i]` - 1, and each of them owns at least one position.
    """

    labels: Tensor
    counts: tuple[int, ...]

    @property
    def most(self) -> int:
        return max(self.counts)

    def sizes(self) -> Tensor:
        """Positions that each player owns, `(n, most)`; 0 past an example's own players."""
        flat = self.labels.flatten(1)
        return torch.zeros(len(flat), self.most, dtype=torch.long, device=flat.device).scatter_add_(
            1, flat, torch.ones_like(flat)
        )

    def spread(self, values: Tensor) -> Tensor:
        """One number a player `(n, most)` shared equally among its positions, so that sums stay what they are."""
        share = values / self.sizes().clamp(min=1).to(values.device)
        return share.gather(1, self.labels.flatten(1).to(values.device)).reshape(self.labels.shape)

    def present(self, example: Tensor, coalitions: Tensor) -> Tensor:
        """Which positions `coalitions` `(rows, most)` hold, row r being about `example[r]`; broadcasts to the rows."""
        labels = self.labels[example]
        return coalitions.gather(1, labels.flatten(1)).reshape(labels.shape)

    def centres(self, example: int) -> Tensor:
        """Mean coordinates `(players, axes)` of each player's positions."""
        labels = self.labels[example]
        places = torch.stack(torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij")).flatten(1).double()
        owner = labels.flatten().cpu()
        total = torch.zeros(self.counts[example], len(places), dtype=torch.float64).index_add_(0, owner, places.T)
        return total / owner.bincount(minlength=self.counts[example])[:, None]


class Players(Named, ABC):
    """A way to divide an input into players. All channels of a position belong to one player."""

    @abstractmethod
    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        """Integers `(n, 1, *space)` (or `(n, *features)`) for x `(n, *features)`; equal ones belong together.

        `examples` `(n,)` are the rows' places in the user's batch, for players given per example.
        """

    @abstractmethod
    def count(self, features: torch.Size) -> int | None:
        """How many players an input of this shape has; None where that depends on its content."""

    def divide(self, x: Tensor, examples: Tensor) -> Division:
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
    """Rectangular cells, `cells` along each spatial axis, one number or one an axis; never smaller than a pixel."""

    cells: int | tuple[int, ...] = 14

    def __post_init__(self) -> None:
        each = self.cells if isinstance(self.cells, tuple) else (self.cells,)
        if not each or not all(isinstance(cells, int) and cells >= 1 for cells in each):
            raise ValueError(f"players: Grid.cells={self.cells!r}; use a whole number of 1 or more, or one an axis")

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
                f"players: {self!r} for positions of shape {tuple(space)}; give one number, or one an axis"
            )
        return tuple(min(each, size) for each, size in zip(cells, space, strict=True))


class _Segmented(Players):
    """Base of the players that an algorithm finds in the picture, stretched to [0, 1] for it."""

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"players: {self!r} needs pictures (batch, channels, H, W), not {tuple(x.shape)}")
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        pictures = ((x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)).movedim(1, -1).double().cpu().numpy()
        return torch.from_numpy(np.stack([self.segments(picture) for picture in pictures])).long()[:, None].to(x.device)

    @abstractmethod
    def segments(self, picture: np.ndarray) -> np.ndarray:
        """Labels `(H, W)` of a picture `(H, W, channels)` in [0, 1]."""

    def count(self, features: torch.Size) -> None:
        return None


@dataclass(frozen=True)
class Slic(_Segmented):
    """Superpixels: k-means of colour and place, about `segments` of them. Needs scikit-image. [achanta2012]"""

    number: int = 50
    compactness: float = 10.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"players: Slic.number={self.number}; use 1 or more segments")

    def segments(self, picture: np.ndarray) -> np.ndarray:
        found: np.ndarray = _segmentation("Slic").slic(
            picture, self.number, self.compactness, sigma=self.sigma, start_label=0, channel_axis=-1
        )
        return found


@dataclass(frozen=True)
class Felzenszwalb(_Segmented):
    """Regions whose border is stronger than what is inside them. Needs scikit-image. [felzenszwalb2004]"""

    scale: float = 100.0
    sigma: float = 0.5
    min_size: int = 50

    def segments(self, picture: np.ndarray) -> np.ndarray:
        found: np.ndarray = _segmentation("Felzenszwalb").felzenszwalb(
            picture, self.scale, self.sigma, self.min_size, channel_axis=-1
        )
        return found


@dataclass(frozen=True, eq=False)
class Segments(Players):
    """A given map of labels, any integers: `(*space)` for all examples or `(batch, *space)`, one each."""

    map: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "map", torch.as_tensor(self.map))
        if self.map.is_floating_point() or self.map.numel() == 0:
            raise ValueError(
                f"players: Segments.map is {self.map.dtype} of shape {tuple(self.map.shape)}; use integer labels (H, W)"
            )

    def per_example(self, x: Tensor) -> bool:
        """Whether the map has one axis more than an example of x has positions."""
        return self.map.ndim == max(x.ndim - 2, 1) + 1

    def labels(self, x: Tensor, examples: Tensor) -> Tensor:
        space, given = x.shape[2:] if x.ndim > 2 else x.shape[1:], tuple(self.map.shape)
        labels = self.map.to(x.device)
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
        return len(self.map.unique()) if self.map.shape == space else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segments) and torch.equal(self.map, other.map)

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.map.shape), int(self.map.sum())))


@dataclass(frozen=True)
class SegmentMean(Baseline):
    """Each segment painted in its own mean: absent players keep their colour and lose their texture."""

    players: Players = Grid()

    def references(self, inputs: Tensor, streams: Streams) -> Tensor:
        division = self.players.divide(inputs, torch.arange(len(inputs), device=inputs.device))
        labels = division.labels.expand(inputs.shape).flatten(2) if inputs.ndim > 2 else division.labels[:, None]
        values = inputs.reshape(labels.shape)
        total = values.new_zeros(*labels.shape[:2], division.most)
        mean = total.scatter_add(2, labels, values) / total.scatter_add(2, labels, torch.ones_like(values)).clamp(min=1)
        return mean.gather(2, labels).reshape(inputs.shape)[None]


def default_players(features: torch.Size, cells: int) -> Players:
    """A grid for pictures `(channels, H, W)`; each feature by itself for anything else."""
    return Grid(cells) if len(features) == 3 else Features()


def _space(features: torch.Size, players: Players) -> torch.Size:
    if len(features) < 2:
        raise ValueError(
            f"players: {players!r} needs spatial axes, an example has shape {tuple(features)}; use Features()"
        )
    return features[1:]


def _segmentation(name: str) -> ModuleType:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise ImportError(f"players: {name} needs scikit-image: pip install 'limelight[segments]'") from error
    found: ModuleType = segmentation
    return found
