"""Colours of attributions: one scale for each map, with a fixed colour for zero and a reported clipped share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

# Anchors at equal steps, with interpolation. The first table of each group is the default. DIVERGING runs from -v to v:
# ColorBrewer's RdBu, without its near-black ends, and PuOr, whose lightness is symmetric. MAGNITUDE runs from 0 to v
# with evenly rising lightness: matplotlib's inferno and viridis.
DIVERGING = {
    "red-blue": "1a4f96 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 930d28",
    "orange-purple": "542788 8073ac b2abd2 d8daeb f7f7f7 fee0b6 fdb863 e08214 b35806",
}
MAGNITUDE = {
    "inferno": "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 "
    "f9cb35 f2ea69 fcffa4",
    "viridis": "440154 482878 3e4a89 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    "grey": "000000 ffffff",
}
_UNDEFINED = 128  # the grey of NaN, which no table contains


@dataclass(frozen=True)
class Scale:
    """The scale that maps values to colours.

    `limit`: v, where the colours end, in the map's units; NaN for a map without finite values. `signed`: colours run
    from -v to v, else from 0 to v by magnitude. `clipped`: the share of finite pixels beyond v, in [0, 1]. `empty`: no
    finite value differs from zero. `colours`: the name of the table where it is not the default.
    """

    limit: float
    signed: bool
    clipped: float
    empty: bool
    colours: str | None = None

    @property
    def table(self) -> str:
        """The anchors of the colours: of `colours` if that table fits the scale, else of the default."""
        tables = DIVERGING if self.signed else MAGNITUDE
        return tables.get(self.colours or "", next(iter(tables.values())))

    @property
    def ticks(self) -> tuple[str, ...]:
        """The numbers at the ends of the colours, and for signed maps at their middle."""
        end = f"{self.limit:.3g}"
        return (f"-{end}", "0", end) if self.signed else ("0", end)

    @property
    def clip_note(self) -> str:
        return f"{percent(self.clipped)} clipped"


def scale_of(
    heatmap: Tensor, signed: bool | None = None, percentile: float = 99.5, colours: str | None = None
) -> Scale:
    """Return the scale of a heatmap `(H, W)`: v is the `percentile` of $|A|$ over finite pixels, or their maximum if
    that percentile is zero. `signed` None: signed if any value is negative.

    Raises ValueError for a heatmap that isn't `(H, W)` or a percentile outside [0, 100].
    """
    values = values_of(heatmap)
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile: {percentile!r} is not in [0, 100]; 99.5 is the default")
    values = values[np.isfinite(values)]
    if signed is None:
        signed = bool((values < 0).any())
    if values.size == 0:
        return Scale(limit=float("nan"), signed=signed, clipped=0.0, empty=True, colours=colours)
    size = np.abs(values)
    limit = float(np.percentile(size, percentile)) or float(size.max())
    return Scale(limit, signed, clipped=float((size > limit).mean()), empty=limit == 0, colours=colours)


def colourise(heatmap: Tensor, scale: Scale) -> NDArray[np.uint8]:
    """Return the colours `(H, W, 3)`, uint8, of a heatmap `(H, W)`. Unsigned scales use the magnitude; NaN is grey."""
    values = values_of(heatmap)
    ratio = strength(values, scale)
    position = (1 + np.sign(values) * ratio) / 2 if scale.signed else ratio
    anchors = _table(scale.table)
    steps = np.linspace(0, 1, len(anchors))
    colours = np.stack([np.interp(position, steps, channel) for channel in anchors.T], axis=-1)
    return np.where(np.isnan(values)[..., None], _UNDEFINED, colours.round()).astype(np.uint8)


def strength(values: Floats, scale: Scale) -> Floats:
    r"""Compute $\min(|A| / v, 1)$ for any shape; zero for NaN and for empty maps."""
    if scale.empty:
        return np.zeros_like(values)
    return np.nan_to_num(np.minimum(np.abs(values) / scale.limit, 1))


def remarks(heatmap: Tensor, scale: Scale) -> tuple[str, ...]:
    """Return texts on values of a heatmap `(H, W)` that colours can't show: NaN, infinite values, only zeros."""
    values = values_of(heatmap)
    undefined, infinite = float(np.isnan(values).mean()), int(np.isinf(values).sum())
    found = []
    if scale.empty:
        found.append("no finite value" if np.isnan(scale.limit) else "all zero: nothing to show")
    if undefined:
        found.append(f"{percent(undefined)} undefined (NaN)")
    if infinite:
        found.append(f"{infinite} infinite values" if infinite > 1 else "1 infinite value")
    return tuple(found)


def values_of(heatmap: Tensor) -> Floats:
    if heatmap.ndim != 2 or heatmap.numel() == 0:
        raise ValueError(f"heatmap: has shape {tuple(heatmap.shape)}; one map (H, W) is drawn at a time")
    values: Floats = heatmap.detach().cpu().double().numpy()
    return values


def percent(share: float) -> str:
    """Write a share in [0, 1] as a percentage."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _table(anchors: str) -> Floats:
    return np.array([list(bytes.fromhex(anchor)) for anchor in anchors.split()], dtype=np.float64)
