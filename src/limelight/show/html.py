"""Self-contained HTML pages with the viewer. Without scripts a page still shows the maps and their numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from PIL import Image

from ..base.attribution import Panel
from ..base.files import write_whole
from ..base.notes import about_example
from ..base.version import in_words as versions_in_words
from ..base.view import View
from .assets import asset, script_hash, viewer_script, words
from .colour import Scale, colourise
from .image import TILE_OPACITY, Tile, fit, overlay, png_source, size_of
from .payload import Facts, Row, as_text, cautions_among, layout_of, viewer_payload
from .summary import Summary, outlined, summary_of_panel
from .text_html import letters_of, strongest_table
from .words import Words

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


def write_panel(path: str | os.PathLike[str], panel: Panel, view: View | str | None = None) -> None:
    """Write a page of a panel's first example; see `write_report`. `view`: as in `Panel.save`."""
    write_report(path, [_row_of(panel, view)], panel._title(), "", panel._facts())


def panel_fragment(panel: Panel) -> str:
    """Return HTML of a panel's first example; see `report_fragment`."""
    return report_fragment([_row_of(panel)], panel._title(), "", panel._facts())


def _row_of(panel: Panel, view: View | str | None = None) -> Row:
    first = panel[0]
    picture, tiles = first._picture(0, view), tuple(panel.tiles(view=view))
    if first.score.ndim > 1:  # several targets of one picture, which no single summary is about
        return Row(first._heading(0), picture, tiles)
    return Row("", picture, tiles, summary_of_panel(panel))


def facts_of(panel: Panel) -> list[tuple[str, str]]:
    """Return what a page says of how a panel's maps were made, and their notes."""
    first = panel[0]
    several = first.score.ndim > 1
    agreed = [("agreement", Panel.agreement(panel).sentence())] if several and len(panel) > 1 else []
    return [
        ("model evaluations", f"{panel.forward_rows} forward + {panel.backward_rows} backward"),
        ("baseline", repr(first.baseline)),
        ("seed", str(first.seed)),
        ("versions", versions_in_words(first.versions)),
        *agreed,
        *((name, n) for name, each in panel.items() for n in (each.notes if several else about_example(each.notes, 0))),
    ]


def report_fragment(rows: Sequence[Row], heading: str, footer: str, facts: Facts) -> str:
    """Return HTML of still maps, `facts` (pairs of name and value), the data, and the viewer that replaces them.

    Values that are cautions (`Note`) stand above the maps, all others behind a fold.
    """
    warned = cautions_among(facts)
    others = [each for each in facts if each not in warned]
    data = as_text(viewer_payload(rows, heading, footer, facts))
    alone = len(rows) == 1
    return (
        f'<div class="limelight" data-waiting><style>{asset("viewer.css")}</style>'
        + (f"<h2>{words(heading)}</h2>\n" if heading else "")
        + _cautions(warned)
        + "".join(_section(row, alone) for row in rows)
        + _facts(others)
        + (f"<footer>{words(footer)}</footer>\n" if footer else "")
        + f'<script type="application/json">{data}</script></div>\n'
        + f'<script type="module">{viewer_script()}</script>'
    )


def _cautions(warned: Facts) -> str:
    if not warned:
        return ""
    lines = "".join(f"<li><b>{words(name)}</b> {words(value)}</li>" for name, value in warned)
    return f'<ul class="cautions" aria-label="cautions">{lines}</ul>\n'


def _facts(facts: Facts) -> str:
    if not facts:
        return ""
    pairs = "".join(f"<dt>{words(name)}</dt><dd>{words(value)}</dd>" for name, value in facts)
    return f'<details class="facts"><summary>How the maps were made</summary><dl>{pairs}</dl></details>\n'


def _section(row: Row, alone: bool) -> str:
    """Draw a row. The picture stands beside the summary where the row is alone, else before the maps."""
    picture = _picture(row)
    cells = "".join(_figure(row.picture, tile) for tile in row.tiles)
    title = f'<h3 class="row">{words(row.label)}</h3>' if row.label else ""
    said = "" if row.summary is None else _said(row.summary)
    if alone and said:
        return f'<section><div class="lead">{picture}{said}</div>{title}<div class="panel">{cells}</div></section>\n'
    return f'<section>{title}{said}<div class="panel">{picture}{cells}</div></section>\n'


def _picture(row: Row) -> str:
    region = None if row.summary is None else row.summary.region
    size = size_of(row.picture, "×")
    layout = layout_of(row.picture)
    if isinstance(layout, Words):
        image = letters_of(layout)
    elif region is None:
        image = _image(row.picture.convert("RGB"), "picture")
    else:
        image = _image(outlined(row.picture, region, _SIDE), "picture")
        size = f"{size}; outlined: where the maps agree"
    return f"<figure>{image}<h3>picture</h3><p>{size}</p></figure>"


def _said(summary: Summary) -> str:
    bars = "".join(f"<li>{words(name)} <b>{share:.1%}</b></li>" for name, share in summary.classes)
    count = sum(len(names) for _, names in summary.held)
    held = "".join(
        f"<p><b>{len(names)} of {count} maps {word}</b>: {words(', '.join(names))}</p>" for word, names in summary.held
    )
    pair = summary.furthest
    differ = (
        f"<p>{words(pair[0])} and {words(pair[1])} differ most: rank correlation {pair[2]:.2f}.</p>" if pair else ""
    )
    return (
        f'<div class="said"><p class="first">{words(summary.said)}</p>'
        + (f"<p>{words(summary.explained)}</p>" if summary.explained else "")
        + (f'<ul class="classes">{bars}</ul>' if bars else "")
        + (f"<p>{words(summary.agreed)}</p>" if summary.agreed else "")
        + f"{differ}{held}</div>"
    )


def _figure(picture: Image.Image, tile: Tile) -> str:
    scale = tile.scale
    lines = "".join(f"<p>{words(line)}</p>" for line in tile.caption)
    opening = '<figure class="warning">' if tile.warning else "<figure>"
    mark = "⚠ " if tile.warning else ""
    layout = layout_of(picture)
    single = isinstance(layout, Words) and len(tile.heatmap) == 1
    image = (
        letters_of(layout, tile)
        if isinstance(layout, Words) and single
        else _image(overlay(picture, tile.heatmap, scale, TILE_OPACITY), tile.title)
    )
    table = strongest_table(layout, tile) if isinstance(layout, Words) else ""
    title = f"<h3>{mark}{words(tile.title)}</h3>"
    return f"{opening}{image}{_bar(scale)}{title}{lines}{table}{_card(tile)}</figure>\n"


def _card(tile: Tile) -> str:
    entries = [entry for section in tile.sections for entry in section.entries]
    if not entries:
        return ""
    lines = "".join(f"<p>{words(' '.join((e.mark, e.name, e.figure, e.limit, e.words)))}</p>" for e in entries)
    return f'<details class="card"><summary>{words(tile.verdict or "tests")}</summary>{lines}</details>'


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
