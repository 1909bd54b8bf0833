"""A text as HTML that needs no script: its pieces as coloured letters, and a table of the strongest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .assets import words
from .colour import percent, values_of
from .image import TILE_OPACITY, Tile
from .words import STRONGEST, Words, ink_on, on_paper, shares, strongest

_OF_SEVERAL = 3  # rows for each target, where there are several


def letters_of(layout: Words, tile: Tile | None = None) -> str:
    """Return the text as a paragraph; with a tile, one row of it, each piece on its colour."""
    if tile is None:
        parts = [_part(each.letters, "small" * each.small) for each in layout.segments]
        return f'<p class="letters plain" dir="auto">{"".join(parts)}</p>'
    scale, values = tile.scale, values_of(tile.heatmap)
    fills = on_paper(values, scale, TILE_OPACITY)[0]
    said, names = shares(values[0]), layout.names
    parts = []
    for each in layout.segments:
        if each.piece < 0:
            parts.append(_part(each.letters))
            continue
        title = in_words(names[each.piece], float(values[0, each.piece]), float(said[each.piece]))
        style = f"background: {_rgb(fills[each.piece])}; color: {_rgb(ink_on(fills[each.piece]))}"
        parts.append(_part(each.letters, "piece small" if each.small else "piece", style, title))
    paper = "pale" if scale.signed else "dark"
    return f'<p class="letters {paper}" dir="auto">{"".join(parts)}</p>'


def strongest_table(layout: Words, tile: Tile) -> str:
    """Return a table of the strongest pieces of each row of a map."""
    names, rows = layout.names, []
    values = values_of(tile.heatmap)
    several = len(values) > 1
    for row, target in zip(values, layout.targets or [-1], strict=False):
        head = f"<td>{words(layout.predicted(target))}</td>" if several else ""
        said = shares(row)
        for place in strongest(row, _OF_SEVERAL if several else STRONGEST):
            cells = f"<td>{row[place]:.3g}</td><td>{percent(said[place])}</td>"
            rows.append(f'<tr>{head}<th scope="row">{words(names[place])}</th>{cells}</tr>')
    if not rows:
        return ""
    heads = [*(["predicted"] if several else []), "token", "value", "share of all |A|"]
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    return (
        f'<table class="strongest"><caption>Strongest tokens</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def in_words(name: str, value: float, share: float) -> str:
    """Say the value of a piece: `cocoa: 0.62, 18.3% of all |A|`."""
    return f"{name}: {value:.3g}" + ("" if math.isnan(share) else f", {percent(share)} of all |A|")


def _part(letters: str, kind: str = "", style: str = "", title: str = "") -> str:
    given = {"class": kind, "style": style, "title": title}
    attributes = "".join(f' {name}="{words(value)}"' for name, value in given.items() if value)
    return f"<span{attributes}>{words(letters)}</span>"


def _rgb(colour: Sequence[int]) -> str:
    return f"rgb({', '.join(str(int(each)) for each in colour)})"
