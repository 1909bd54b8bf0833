"""The viewer's data as JSON values: pictures, maps and texts."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..evaluation.card import Section
from .colour import DIVERGING, MAGNITUDE, remarks, scale_of, values_of
from .image import Tile, png_source, require_size_of, size_of

PERCENTILES = (90, 95, 98, 99, 99.5, 99.9, 100)
"""The percentiles of the viewer's slider, at which the colours may end."""

Facts = Sequence[tuple[str, str]]
"""Pairs of name and value below the maps of a page."""


@dataclass(frozen=True)
class Row:
    """A row of the viewer: a picture and its maps, for one class or one of several pictures; `label` may be empty."""

    label: str
    picture: Image.Image
    tiles: tuple[Tile, ...]


def viewer_payload(rows: Sequence[Row], heading: str, footer: str, facts: Facts) -> dict[str, Any]:
    """Return the viewer's data, in which a picture that several rows share is stored once.

    Raises ValueError for a map of another size than its picture.
    """
    pictures = {id(row.picture): row.picture for row in rows}
    places = {key: place for place, key in enumerate(pictures)}
    return {
        "heading": heading,
        "footer": footer,
        "facts": [list(fact) for fact in facts],
        "percentiles": list(PERCENTILES),
        "tables": {"diverging": DIVERGING, "magnitude": MAGNITUDE},
        "pictures": [picture_payload(picture) for picture in pictures.values()],
        "rows": [
            {
                "label": row.label,
                "picture": places[id(row.picture)],
                "maps": [map_payload(row.picture, tile) for tile in row.tiles],
            }
            for row in rows
        ],
    }


def picture_payload(picture: Image.Image) -> dict[str, Any]:
    """Return a picture as a data URI of a PNG, with its size in pixels and in words."""
    source = png_source(picture.convert("RGB"))
    return {"src": source, "width": picture.width, "height": picture.height, "size": size_of(picture, "×")}


def map_payload(picture: Image.Image, tile: Tile) -> dict[str, Any]:
    """Return a map as float16 times `scale`, with its (percentile, v, clipped share) at PERCENTILES."""
    require_size_of(picture, tile.heatmap, tile.title)
    scale = tile.scale
    values, size = half(tile.heatmap)
    limits = [scale_of(tile.heatmap, tile.signed, percentile) for percentile in PERCENTILES]
    return {
        "title": tile.title,
        "lines": list(tile.lines),
        "remarks": list(remarks(tile.heatmap, scale)),
        "warning": tile.warning,
        "signed": scale.signed,
        "shape": list(tile.heatmap.shape),
        "values": values,
        "scale": size,
        "limits": [
            [percentile, each.limit if math.isfinite(each.limit) else None, each.clipped]
            for percentile, each in zip(PERCENTILES, limits, strict=True)
        ],
        "sections": [section_payload(section) for section in tile.sections],
    }


def section_payload(section: Section) -> dict[str, Any]:
    """Return a section of a trust card, each entry as [mark, name, figure, words], each picture as [words, source]."""
    entries = [list(entry.cells) for entry in section.entries]
    return {"title": section.title, "entries": entries, "pictures": list(map(list, section.pictures))}


def half(heatmap: Tensor) -> tuple[str, float]:
    """Encode `(H, W)` as base64 of little-endian float16 in [-1, 1], with its factor, the largest finite |A|.

    The relative error is at most 2^-11, or 2^-25 of the largest value for values smaller than 2^-14 of it.
    """
    values = values_of(heatmap)
    finite = np.abs(values[np.isfinite(values)])
    size = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return base64.b64encode((values / size).astype("<f2").tobytes()).decode("ascii"), size


def as_text(payload: Any) -> str:
    """Return JSON that can't end the HTML script element around it."""
    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
