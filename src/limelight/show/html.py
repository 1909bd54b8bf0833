"""Maps as a page: self-contained (pictures as data URIs), without script, readable in light and dark."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image

from ..files import write_whole
from .colour import Scale, colourise
from .image import TILE_OPACITY, Tile, fit, overlay, png_bytes

_SIDE = 448  # pixels of an embedded picture's longer side

_STYLE = """
.limelight { color-scheme: light dark; --ink: #1c1c20; --faint: #5d6068; --page: #fff; --line: #d9dae0;
  --amber: #9a5a00; color: var(--ink); background: var(--page); font: 15px/1.45 system-ui, sans-serif;
  padding: 20px; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  .limelight { --ink: #ececf0; --faint: #a5a8b2; --page: #17181c; --line: #3a3c44; --amber: #f0a93c; } }
.limelight h2 { font-size: 1.4em; margin: 0 0 .8em; }
.limelight .panel { display: grid; gap: 28px 24px;
  grid-template-columns: repeat(auto-fill, minmax(min(260px, 100%), 1fr)); }
.limelight figure { margin: 0; max-width: 448px; }
.limelight img { display: block; width: 100%; }
.limelight h3 { font-size: 1.08em; margin: .6em 0 .2em; }
.limelight p, .limelight dd { margin: 0; color: var(--faint); }
.limelight .warning h3 { color: var(--amber); }
.limelight .bar { height: 12px; margin-top: 8px; border: 1px solid var(--line); }
.limelight .ticks { display: flex; justify-content: space-between; font-size: .85em;
  font-variant-numeric: tabular-nums; }
.limelight dl { display: grid; grid-template-columns: minmax(5em, max-content) 1fr; gap: .3em 1.2em; margin: 24px 0 0;
  padding-top: 16px; border-top: 1px solid var(--line); font-size: .92em; }
.limelight footer { margin-top: 16px; color: var(--faint); }
"""

_PAGE_STYLE = "body { margin: 0 } body > .limelight { min-height: 100vh; box-sizing: border-box }"


def write_html(
    path: str | os.PathLike[str],
    picture: Image.Image,
    tiles: Sequence[Tile],
    heading: str,
    footer: str,
    facts: Sequence[tuple[str, str]],
) -> None:
    """Write a page that opens from disk; a failure leaves whatever `path` held before."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(heading)}</title><style>{_PAGE_STYLE}</style></head>\n"
        f"<body>{html_fragment(picture, tiles, heading, footer, facts)}</body></html>\n"
    )
    # A file's name may hold bytes that are no text (surrogates); they become question marks.
    write_whole(path, page.encode("utf-8", errors="replace"))


def html_fragment(
    picture: Image.Image,
    tiles: Sequence[Tile],
    heading: str,
    footer: str,
    facts: Sequence[tuple[str, str]],
) -> str:
    """The picture, the tiles, and `facts` as pairs of name and value; for a page's body or a notebook's cell."""
    size = f"{picture.width} × {picture.height} pixels"
    cells = [f"<figure>{_image(picture.convert('RGB'), 'picture')}<h3>picture</h3><p>{size}</p></figure>"]
    cells += [_figure(picture, tile) for tile in tiles]
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return (
        f'<div class="limelight"><style>{_STYLE}</style><h2>{escape(heading)}</h2>\n'
        f'<div class="panel">{"".join(cells)}</div>\n'
        + (f"<dl>{pairs}</dl>\n" if pairs else "")
        + (f"<footer>{escape(footer)}</footer>\n" if footer else "")
        + "</div>"
    )


def _figure(picture: Image.Image, tile: Tile) -> str:
    scale = tile.scale
    lines = "".join(f"<p>{escape(line)}</p>" for line in tile.caption)
    opening = '<figure class="warning">' if tile.warning else "<figure>"
    mark = "⚠ " if tile.warning else ""
    image = _image(overlay(picture, tile.heatmap, scale, TILE_OPACITY), tile.title)
    return f"{opening}{image}{_bar(scale)}<h3>{mark}{escape(tile.title)}</h3>{lines}</figure>\n"


def _bar(scale: Scale) -> str:
    if scale.empty:
        return ""  # the caption says so in words
    ramp = scale.limit * torch.linspace(-1 if scale.signed else 0, 1, 17, dtype=torch.float64)
    stops = ", ".join("rgb({}, {}, {})".format(*stop) for stop in colourise(ramp[None], scale)[0])
    ticks = "".join(f"<span>{tick}</span>" for tick in scale.ticks)
    return (
        f'<div class="bar" style="background: linear-gradient(to right, {stops})"></div>'
        f'<div class="ticks">{ticks}</div><p>{scale.clip_note}</p>'
    )


def _image(image: Image.Image, words: str) -> str:
    data = base64.b64encode(png_bytes(fit(image, _SIDE))).decode("ascii")
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'
