"""What the viewer is told, as plain JSON: pictures once, raw maps once, and the words beside them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..evaluation.sections import Section
from .colour import DIVERGING, MAGNITUDE, remarks, scale_of, values_of
from .image import Tile, png_source

PERCENTILES = (90, 95, 98, 99, 99.5, 99.9, 100)
"""Where the colours may end: the stops of the viewer's slider."""


@dataclass(frozen=True)
class Row:
    """The maps of one question about a picture: a class of it, or the picture among others; `label` may be empty."""

    label: str
    picture: Image.Image
    tiles: tuple[Tile, ...]


def viewer_payload(rows: Sequence[Row], heading: str, footer: str, facts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The viewer's data. A picture that several rows share is sent once.

    Raises ValueError for a map that isn't as large as its picture.
    """
    pictures: dict[int, tuple[int, Image.Image]] = {}
    for row in rows:
        pictures.setdefault(id(row.picture), (len(pictures), row.picture))
    return {
        "heading": heading,
        "footer": footer,
        "facts": [list(fact) for fact in facts],
        "percentiles": list(PERCENTILES),
        "tables": {"diverging": DIVERGING, "magnitude": MAGNITUDE},
        "pictures": [picture_payload(picture) for _, picture in pictures.values()],
        "rows": [
            {
                "label": row.label,
                "picture": pictures[id(row.picture)][0],
                "maps": [map_payload(row.picture, tile) for tile in row.tiles],
            }
            for row in rows
        ],
    }


def picture_payload(picture: Image.Image) -> dict[str, Any]:
    """The picture as a data URI of a PNG, with its size in pixels."""
    return {"src": png_source(picture.convert("RGB")), "width": picture.width, "height": picture.height}


def map_payload(picture: Image.Image, tile: Tile) -> dict[str, Any]:
    """A map: float16 times `scale`, and for each percentile the exact (percentile, v, clipped share) of the tensor."""
    height, width = tile.heatmap.shape
    if (width, height) != picture.size:
        raise ValueError(
            f"heatmap: {tile.title!r} is {height}x{width} (height x width), its picture "
            f"{picture.height}x{picture.width}; resize one to the other"
        )
    scale = tile.scale
    values, size = half(tile.heatmap)
    limits = [scale_of(tile.heatmap, tile.signed, percentile) for percentile in PERCENTILES]
    return {
        "title": tile.title,
        "lines": list(tile.lines),
        "remarks": list(remarks(tile.heatmap, scale)),
        "warning": tile.warning,
        "signed": scale.signed,
        "shape": [height, width],
        "values": values,
        "scale": size,
        "limits": [
            [percentile, each.limit if math.isfinite(each.limit) else None, each.clipped]
            for percentile, each in zip(PERCENTILES, limits, strict=True)
        ],
        "sections": [section_payload(section) for section in tile.sections],
    }


def section_payload(section: Section) -> dict[str, Any]:
    """A section of a trust card, each entry as [mark, name, figure, words]."""
    return {"title": section.title, "entries": [list(astuple(entry)) for entry in section.entries]}


def half(heatmap: Tensor) -> tuple[str, float]:
    """`(H, W)` as base64 of little-endian float16 in [-1, 1], and the number to multiply by: the largest finite |A|.

    Relative error of a value at most 2^-11, or 2^-25 of the largest where the value is smaller than 2^-14 of it.
    """
    values = values_of(heatmap)
    finite = np.abs(values[np.isfinite(values)])
    size = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return base64.b64encode((values / size).astype("<f2").tobytes()).decode("ascii"), size


def as_text(payload: Any) -> str:
    """JSON that stays data inside an HTML script element, whatever it holds."""
    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
