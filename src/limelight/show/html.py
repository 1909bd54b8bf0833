"""Self-contained HTML pages with the viewer. Without scripts a page still shows the maps and their numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from PIL import Image

from ..base.files import write_whole
from .assets import asset, script_hash, viewer_script, words
from .colour import Scale, colourise
from .image import TILE_OPACITY, Tile, fit, overlay, png_source, size_of
from .payload import Facts, Row, as_text, viewer_payload

_SIDE = 224  # pixels of a still picture's longer side

_PAGE_STYLE = "body { margin: 0 } body > .limelight { min-height: 100vh; box-sizing: border-box }"


def write_html(
    path: str | os.PathLike[str], picture: Image.Image, tiles: Sequence[Tile], heading: str, footer: str, facts: Facts
) -> None:
    """Write a page of one picture; see `write_report`."""
    write_report(path, [Row("", picture, tuple(tiles))], heading, footer, facts)


def write_report(
    path: str | os.PathLike[str], rows: Sequence[Row], heading: str, footer: str, facts: Facts, before: str = ""
) -> None:
    """Write a page that opens from disk, loads nothing and runs the viewer's script alone.

    `before` is HTML to put above the maps, in which the caller has escaped text. On failure the old file stays.
    """
    page = (
        page_opening(heading, _PAGE_STYLE, viewer_script(), images="data: blob:")
        + f"<body>{before}{report_fragment(rows, heading, footer, facts)}</body></html>\n"
    )
    # Names of files may hold surrogates, which UTF-8 can't encode.
    write_whole(path, page.encode("utf-8", errors="replace"))


def page_opening(title: str, style: str, script: str, images: str = "data:") -> str:
    """Return the head of a page that loads nothing, runs `script` alone, and shows images from the sources `images`."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src {images}; '
        f"style-src 'unsafe-inline'; script-src {script_hash(script)}; base-uri 'none'; form-action 'none'\">\n"
        f"<title>{words(title)}</title><style>{style}</style></head>\n"
    )


def html_fragment(picture: Image.Image, tiles: Sequence[Tile], heading: str, footer: str, facts: Facts) -> str:
    """Return HTML of one picture for a page's body or a notebook's cell; see `report_fragment`."""
    return report_fragment([Row("", picture, tuple(tiles))], heading, footer, facts)


def report_fragment(rows: Sequence[Row], heading: str, footer: str, facts: Facts) -> str:
    """Return HTML of still maps, `facts` (pairs of name and value), the data, and the viewer that replaces them."""
    pairs = "".join(f"<dt>{words(name)}</dt><dd>{words(value)}</dd>" for name, value in facts)
    data = as_text(viewer_payload(rows, heading, footer, facts))
    return (
        f'<div class="limelight" data-waiting><style>{asset("viewer.css")}</style><h2>{words(heading)}</h2>\n'
        + "".join(map(_section, rows))
        + (f"<dl>{pairs}</dl>\n" if pairs else "")
        + (f"<footer>{words(footer)}</footer>\n" if footer else "")
        + f'<script type="application/json">{data}</script></div>\n'
        + f'<script type="module">{viewer_script()}</script>'
    )


def _section(row: Row) -> str:
    picture = row.picture
    size = size_of(picture, "×")
    cells = [f"<figure>{_image(picture.convert('RGB'), 'picture')}<h3>picture</h3><p>{size}</p></figure>"]
    cells += [_figure(picture, tile) for tile in row.tiles]
    title = f'<h3 class="row">{words(row.label)}</h3>' if row.label else ""
    return f'<section>{title}<div class="panel">{"".join(cells)}</div></section>\n'


def _figure(picture: Image.Image, tile: Tile) -> str:
    scale = tile.scale
    lines = "".join(f"<p>{words(line)}</p>" for line in tile.caption)
    opening = '<figure class="warning">' if tile.warning else "<figure>"
    mark = "⚠ " if tile.warning else ""
    image = _image(overlay(picture, tile.heatmap, scale, TILE_OPACITY), tile.title)
    return f"{opening}{image}{_bar(scale)}<h3>{mark}{words(tile.title)}</h3>{lines}{_card(tile)}</figure>\n"


def _card(tile: Tile) -> str:
    entries = [entry for section in tile.sections for entry in section.entries]
    return "".join(f"<p>{words(' '.join((e.mark, e.name, e.figure, e.words)))}</p>" for e in entries)


def _bar(scale: Scale) -> str:
    if scale.empty:
        return ""  # the caption says that nothing is shown
    ramp = scale.limit * torch.linspace(-1 if scale.signed else 0, 1, 17, dtype=torch.float64)
    stops = ", ".join("rgb({}, {}, {})".format(*stop) for stop in colourise(ramp[None], scale)[0])
    ticks = "".join(f"<span>{tick}</span>" for tick in scale.ticks)
    return (
        f'<div class="bar" style="background: linear-gradient(to right, {stops})"></div>'
        f'<div class="ticks">{ticks}</div><p>{scale.clip_note}</p>'
    )


def _image(image: Image.Image, alt: str) -> str:
    return f'<img alt="{words(alt)}" src="{png_source(fit(image, _SIDE))}">'
