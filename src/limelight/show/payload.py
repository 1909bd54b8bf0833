"""The viewer's data as JSON values: pictures, maps and texts."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..base.notes import Note
from ..base.view import View
from ..evaluation.card import Section
from .colour import DIVERGING, MAGNITUDE, remarks, scale_of, values_of
from .image import Tile, png_source, require_size_of, size_of
from .layouts import LAYOUT, Layout, Planes
from .subject import SLICES
from .summary import Summary

PERCENTILES = (90, 95, 98, 99, 99.5, 99.9, 100)
"""The percentiles of the viewer's slider, at which the colours may end; the tiles' own come to them."""
MOST_VOXELS = 4_000_000
"""Of a volume whose slices the viewer can leaf through; of a larger one it has the three planes."""

Facts = Sequence[tuple[str, str]]
"""Pairs of name and value below the maps of a page."""


@dataclass(frozen=True)
class Row:
    """A row of the viewer: a picture and its maps, for one class or one of several pictures; `label` may be empty.

    `summary`: what stands above the maps, if anything.
    """

    label: str
    picture: Image.Image
    tiles: tuple[Tile, ...]
    summary: Summary | None = None


def viewer_payload(rows: Sequence[Row], heading: str, footer: str, facts: Facts) -> dict[str, Any]:
    """Return the viewer's data, in which a picture that several rows share is stored once.

    Raises ValueError for a map of another size than its picture.
    """
    pictures = {id(row.picture): row.picture for row in rows}
    places = {key: place for place, key in enumerate(pictures)}
    own = {tile.view.percentile for row in rows for tile in row.tiles if tile.view is not None}
    return {
        "heading": heading,
        "footer": footer,
        "percentiles": sorted(own | set(PERCENTILES)),
        "look": _look([tile for row in rows for tile in row.tiles]),
        "facts": [list(fact) for fact in facts if not _is_caution(fact)],
        "cautions": [list(fact) for fact in facts if _is_caution(fact)],
        "tables": {"diverging": DIVERGING, "magnitude": MAGNITUDE},
        "pictures": [picture_payload(picture) for picture in pictures.values()],
        "rows": [
            {
                "label": row.label,
                "summary": None if row.summary is None else row.summary.payload(),
                "picture": places[id(row.picture)],
                "maps": [map_payload(row.picture, tile) for tile in row.tiles],
            }
            for row in rows
        ],
    }


def _look(tiles: Sequence[Tile]) -> dict[str, Any]:
    """Return what the viewer's controls show at first: the settings of the tiles' first view."""
    view = next((tile.view for tile in tiles if tile.view is not None), View())
    groups = (("diverging", DIVERGING), ("magnitude", MAGNITUDE))
    colours = {name: view.colours if view.colours in tables else next(iter(tables)) for name, tables in groups}
    return {"percentile": view.percentile, **colours}


def cautions_among(facts: Facts) -> Facts:
    """Return those facts whose value is a note that cautions; a reader sees them without asking."""
    return [fact for fact in facts if _is_caution(fact)]


def _is_caution(fact: tuple[str, str]) -> bool:
    return isinstance(fact[1], Note) and fact[1].is_caution


def picture_payload(picture: Image.Image) -> dict[str, Any]:
    """Return a picture as a data URI of a PNG, with its size in pixels and in words.

    That of a volume has its slices beside it, one below the other; those of series and columns have their layout.
    """
    source = png_source(picture.convert("RGB"))
    found = {"src": source, "width": picture.width, "height": picture.height, "size": size_of(picture, "×")}
    layout = layout_of(picture)
    if layout is not None:
        found["layout"] = layout.payload()
    if isinstance(layout, Planes):
        found["slices"] = png_source(picture.info[SLICES].convert("L"))
    return found


def layout_of(picture: Image.Image) -> Layout | None:
    """Return the layout that the viewer draws by; None for a volume that is too large for it."""
    layout: Layout | None = picture.info.get(LAYOUT)
    return None if isinstance(layout, Planes) and math.prod(layout.size) > MOST_VOXELS else layout


def map_payload(picture: Image.Image, tile: Tile) -> dict[str, Any]:
    """Return a map as float16 times `scale`, with its (percentile, v, clipped share) at PERCENTILES.

    The values are sums over channels at single pixels, `magnitude` those of |A|; the viewer makes the view of them.
    """
    require_size_of(picture, tile.heatmap, tile.title)
    view = tile.view
    percentiles = [*PERCENTILES, *([] if view is None or view.percentile in PERCENTILES else [view.percentile])]
    limits = [scale_of(tile.heatmap, tile.signed, percentile) for percentile in percentiles]
    return {
        "title": tile.title,
        "lines": list(tile.lines),
        "remarks": list(remarks(tile.heatmap, tile.scale)),
        "warning": tile.warning,
        "sampled": tile.sampled,
        "percentile": View().percentile if view is None else view.percentile,
        "colours": None if view is None else view.colours,
        "signed": tile.scale.signed,
        **_values(picture, tile),
        "limits": [
            [percentile, each.limit if math.isfinite(each.limit) else None, each.clipped]
            for percentile, each in zip(percentiles, limits, strict=True)
        ],
        "settings": [list(each) for each in tile.settings],
        "card": card_payload(tile.verdict, tile.sections),
    }


def _values(picture: Image.Image, tile: Tile) -> dict[str, Any]:
    """Return the values of a map before its view, and the view; of a tile without one the map as it is drawn."""
    layout = picture.info.get(LAYOUT)
    if isinstance(layout, Planes) and layout_of(picture) is None:
        planes = np.where((index := layout.voxels()) < 0, 0, values_of(tile.heatmap).ravel()[index])
        return _plain(torch.from_numpy(planes))
    if tile.view is None or tile.values is None:
        return _plain(tile.heatmap)
    given = tile.values.double()
    if tile.channels:
        return _of_pieces(given, tile)
    channels, *space = given.shape if given.ndim > 1 else (1, *given.shape)
    columns, series = given.ndim == 1, given.ndim == 2
    signed = given if series else given[:, None] if columns else given.sum(0).reshape(-1, space[-1])
    values, size = half(signed)
    found: dict[str, Any] = {"shape": list(signed.shape), "values": values, "scale": size, "magnitude": None}
    if channels > 1 and not series and not columns:
        values, size = half(given.abs().sum(0).reshape(-1, space[-1]))
        found["magnitude"] = {"values": values, "scale": size}
    space = [] if columns else list(space)
    return {**found, "space": space, "channels": 1 if columns or series else channels, **_view_of(tile.view, tile)}


def _of_pieces(given: Tensor, tile: Tile) -> dict[str, Any]:
    """Return the sums over the channels of each piece of a text, `(targets, pieces)`, and those of |A|."""
    assert tile.view is not None
    rows = given.flatten(1, -2) if given.ndim > 2 else given[:, None]
    values, size = half(rows.sum(0))
    magnitude, largest = half(rows.abs().sum(0))
    return {
        "shape": list(rows.shape[1:]),
        "values": values,
        "scale": size,
        "magnitude": {"values": magnitude, "scale": largest},
        "space": [],
        "channels": tile.channels,
        **_view_of(tile.view, tile),
    }


def _view_of(view: View, tile: Tile) -> dict[str, Any]:
    total = tile.total if tile.total is not None and math.isfinite(tile.total) else None
    return {"view": {"reduce": view.reduce, "smooth": view.smooth, "blocks": view.blocks}, "total": total}


def _plain(heatmap: Tensor) -> dict[str, Any]:
    values, size = half(heatmap)
    shape = list(heatmap.shape)
    return {
        "shape": shape,
        "values": values,
        "scale": size,
        "magnitude": None,
        "space": shape,
        "channels": 1,
        "view": None,
    }


def card_payload(verdict: str, sections: Sequence[Section]) -> dict[str, Any]:
    """Return a trust card: its line and its sections.

    Each entry is [mark, name, figure, words, limit, left out], each picture behind a test [name, source].
    """
    parts = [
        {
            "title": each.title,
            "entries": [list(astuple(entry)) for entry in each.entries],
            "pictures": list(map(list, each.pictures)),
        }
        for each in sections
    ]
    return {"verdict": verdict, "sections": parts}


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
