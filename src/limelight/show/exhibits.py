"""The pictures behind a check's figure: inputs and maps side by side on one scale, and curves."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..base.attribution import describe_target
from ..base.display import chosen_bands
from ..base.files import write_whole
from ..base.view import View
from ..checks.exhibits import Curve, Exhibit
from ..evaluation.card import Section
from ..evaluation.compare_shifts import ShiftStudy
from ..evaluation.findings import Finding, Findings
from ..evaluation.sweep import LAYER, Sweep
from ..evaluation.tables import shown
from ..evaluation.window_scores import WindowScores
from .colour import Scale, colourise, percent, scale_of, values_of
from .image import (
    CELL,
    TILE_OPACITY,
    captioned,
    colour_bar,
    draw_tile,
    fit,
    laid_out,
    overlay,
    picture_of,
    png_bytes,
    size_of,
)
from .payload import Row

ACROSS = 7  # cells of a row
_WIDE = 640  # pixels of a picture inside a page
_DOTS = 150  # per inch of a page
_COLOURS = ((178, 24, 43), (33, 102, 172), (77, 146, 33), (118, 42, 131))  # of the curves, in turn
_INK, _FAINT = (28, 28, 32), (200, 202, 206)


def draw_findings(findings: Sequence[Finding], example: int = 0) -> Image.Image:
    """Draw what is shown of one example of each finding, one below the other; each finding has one colour scale.

    Raises ValueError for a finding without pictures of the example.
    """
    blocks = [_block(each, example) for each in findings]
    page = Image.new("RGB", (max(each.width for each in blocks), sum(each.height for each in blocks)), "white")
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height
    return page


def draw_rows(rows: Sequence[Row], heading: str, footer: str = "") -> Image.Image:
    """Draw a row for each class or picture: the picture under the row's label, then its maps."""
    cells = [
        [
            captioned(fit(row.picture.convert("RGB"), CELL), row.label, ()),
            *(draw_tile(row.picture, t) for t in row.tiles),
        ]
        for row in rows
    ]
    return laid_out(cells, max(map(len, cells)), heading, footer)


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write a picture as `.png`, or as a `.pdf` of one page at 150 dots an inch; a failure leaves the old file."""
    path = Path(path)
    match path.suffix:
        case ".png":
            write_whole(path, png_bytes(image))
        case ".pdf":
            page = BytesIO()
            image.convert("RGB").save(page, format="PDF", resolution=_DOTS)
            write_whole(path, page.getvalue())
        case suffix:
            raise ValueError(f"path: {str(path)!r} ends in {suffix!r}; use .png or .pdf")
    return path


def pictures_behind(findings: Findings, example: int = 0) -> tuple[Section, ...]:
    """Return a section of a card with the pictures behind the findings on an example, as JPEGs; none without any."""
    some = [each for each in findings if any(example in part.examples for part in each.exhibits)]
    if not some:
        return ()
    pictures = [(each.name, _small(draw_findings([each], example))) for each in some]
    return (Section("The pictures behind the tests", (), tuple(pictures)),)


def _small(image: Image.Image) -> str:
    width = min(image.width, _WIDE)
    content = BytesIO()
    small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    small.save(content, format="JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def one_scale(maps: Sequence[Tensor]) -> list[Scale]:
    """Return the colour scale of maps `(H, W)` that are compared: one limit and sign for all, each its clipped share.

    The limit is that of `scale_of` for all their values together.
    """
    if not maps:
        return []
    together = scale_of(torch.cat([each.flatten().double() for each in maps])[None])
    return [replace(together, clipped=_beyond(each, together)) for each in maps]


def _beyond(heatmap: Tensor, scale: Scale) -> float:
    values = values_of(heatmap)
    finite = np.abs(values[np.isfinite(values)])
    return float((finite > scale.limit).mean()) if finite.size else 0.0


def map_cell(title: str, picture: Image.Image, heatmap: Tensor, scale: Scale, lines: Sequence[str]) -> Image.Image:
    """Draw a map `(H, W)` over its picture with a colour bar of the given scale."""
    over = fit(overlay(picture, heatmap, scale, TILE_OPACITY), CELL)
    return captioned(over, title, lines, colour_bar(scale, over.height))


def in_rows(cells: Sequence[Image.Image], across: int = ACROSS) -> list[Sequence[Image.Image]]:
    """Break cells into rows of the same length, as far as that goes."""
    down = -(-len(cells) // across)
    width = -(-len(cells) // down) if down else 1
    return [cells[start : start + width] for start in range(0, len(cells), width)]


def _block(finding: Finding, example: int) -> Image.Image:
    parts = finding.exhibits_of(example)
    seen = [(each, each.examples.index(example)) for each in parts if isinstance(each, Exhibit)]
    mapped = [(each, i) for each, i in seen if each.maps is not None]
    bare = [_picture_cell(each, i) for each, i in seen if each.maps is None]
    curves = [(each, each.examples.index(example)) for each in parts if isinstance(each, Curve)]
    rows = in_rows([*_map_cells(mapped), *bare, curve_cell(curves)]) if curves else _map_rows(mapped)
    known = finding.value[example]
    value = "no figure" if bool(known.isnan()) else shown(float(known))
    heading = f"{finding.name} of {finding.method}: {value}" + (f", {finding.verdict}" if finding.limit else "")
    return laid_out(rows, max(map(len, rows)), heading, finding.sentence)


def _map_rows(mapped: Sequence[tuple[Exhibit, int]]) -> list[Sequence[Image.Image]]:
    """Draw the maps on one scale: behind their picture, or where pictures differ in a row below these."""
    if not mapped:
        return []
    cells = _map_cells(mapped)
    pictures = [each.pictures[i] for each, i in mapped]
    if all(torch.equal(each, pictures[0]) for each in pictures):
        first, place = mapped[0]
        return in_rows([_picture_cell(replace(first, label="picture", lines=()), place), *cells])
    above = [_picture_cell(replace(each, lines=()), i) for each, i in mapped]
    rows = zip(in_rows(above), in_rows(cells), strict=True)
    return [row for pair in rows for row in pair]


def _map_cells(mapped: Sequence[tuple[Exhibit, int]]) -> list[Image.Image]:
    """Draw the maps on one scale, or each on its own where their values have no common unit."""
    maps = [each.maps[i] for each, i in mapped if each.maps is not None]
    alone = any(each.own_scale for each, _ in mapped)
    signed = any(bool((each < 0).any()) for each in maps)
    scales = [scale_of(each, signed) for each in maps] if alone else one_scale(maps)
    words = ("on its own scale",) if alone else ()
    drawn = zip(mapped, maps, scales, strict=True)
    return [map_cell(e.label, _picture(e, i), found, scale, (*e.lines[i], *words)) for (e, i), found, scale in drawn]


def _picture(each: Exhibit, place: int) -> Image.Image:
    return Image.fromarray(each.pictures[place].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _picture_cell(each: Exhibit, place: int) -> Image.Image:
    clipped = float(each.clipped[place])
    lines = (*(each.lines[place] if each.lines else ()), *((f"{percent(clipped)} clipped",) if clipped else ()))
    return captioned(fit(_picture(each, place), CELL), each.label, lines)


def curve_cell(curves: Sequence[tuple[Curve, int]]) -> Image.Image:
    """Draw curves of scores against the share that is hidden, each of one of its examples."""
    lines = [each.scores[i].numpy() for each, i in curves]
    values = np.concatenate(lines)
    low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
    high = high if high > low else low + 1
    large, left, right, top, bottom = 2, 44, 8, 10, 24  # drawn at twice the size, for smooth lines
    plot = Image.new("RGB", (large * CELL, large * CELL), "white")
    draw = ImageDraw.Draw(plot)
    font = ImageFont.load_default(12 * large)

    def at(hidden: float, score: float) -> tuple[float, float]:
        across, up = CELL - left - right, CELL - top - bottom
        return large * (left + hidden * across), large * (top + up * (high - score) / (high - low))

    for score in {low, 0.0, high}:
        draw.line([at(0, score), at(1, score)], fill=_FAINT, width=large)
        draw.text((at(0, score)[0] - 6 * large, at(0, score)[1]), shown(score), fill=_INK, font=font, anchor="rm")
    for hidden, words, anchor in ((0.0, "0%", "la"), (0.5, "hidden", "ma"), (1.0, "100%", "ra")):
        draw.text((at(hidden, low)[0], at(hidden, low)[1] + 5 * large), words, fill=_INK, font=font, anchor=anchor)
    for number, ((each, _), scores) in enumerate(zip(curves, lines, strict=True)):
        points = [at(h, s) for h, s in zip(each.hidden.tolist(), scores.tolist(), strict=True) if np.isfinite(s)]
        colour = _COLOURS[number % len(_COLOURS)]
        draw.line(points, fill=colour, width=2 * large, joint="curve")
        if len(curves) > 1:
            draw.text((large * (CELL - right), large * (top + 16 * number)), each.label, colour, font, anchor="ra")
    return captioned(plot.resize((CELL, CELL), Image.Resampling.LANCZOS), "answer by share hidden", ())


def draw_shifts(
    studies: Sequence[ShiftStudy], example: int, heading: str, view: View | str | None = None
) -> Image.Image:
    """Draw the shifted inputs of one example with what the model says, and a row of maps on one scale for each study.

    Raises ValueError for inputs that are no pictures.
    """
    first = studies[0]
    inputs = [each.inputs[example] for each in first.values()]
    if inputs[0].ndim != 3:
        raise ValueError(f"show: inputs have shape {tuple(inputs[0].shape)}, not a picture's (channels, H, W)")
    like = chosen_bands(inputs[0][None])[0]
    seen = [picture_of(chosen_bands(each[None])[0], like=like) for each in inputs]
    clipped = [f"{percent(share)} clipped" if share else "" for share in first.clipped[example].tolist()]
    cells = [
        captioned(fit(picture, CELL), f"picture {label}", tuple(filter(None, (first.said(k, example), clipped[k]))))
        for k, (label, picture) in enumerate(zip(first, seen, strict=True))
    ]
    rows = [cells]
    for study in studies:
        tiles = [each.tiles(example, view)[0] for each in study.values()]
        maps, words = [each.heatmap for each in tiles], tiles[0].how
        drawn = zip(study, seen, maps, one_scale(maps), strict=True)
        rows.append(
            [
                map_cell(f"{study[0].name}, {label}", picture, found, scale, study.remarks(k, example) or (words,))
                for k, (label, picture, found, scale) in enumerate(drawn)
            ]
        )
    return laid_out(rows, len(cells), heading, "The model's input is not clipped; the pictures are, as on a display.")


def draw_sweep(sweep: Sweep, examples: Sequence[int], heading: str, view: View | str | None = None) -> Image.Image:
    """Draw a block of rows for each example: its picture, and its maps on one scale, but for maps of several layers."""
    rows = []
    for example in examples:
        tiles = sweep.tiles(example, view)
        seen = picture_of(chosen_bands(sweep[0].inputs[example][None])[0])
        maps = [tile.heatmap for tile in tiles]
        signed = any(bool((each < 0).any()) for each in maps)
        scales = [scale_of(each, signed) for each in maps] if LAYER in sweep.fields else one_scale(maps)
        drawn = zip(tiles, maps, scales, strict=True)
        cells = [map_cell(tile.title, seen, found, scale, tile.caption) for tile, found, scale in drawn]
        label = "picture" if len(examples) == 1 else f"picture {example + 1}"
        first = captioned(fit(seen, CELL), label, (size_of(seen), f"target {describe_target(sweep[0], example)}"))
        blank = Image.new("RGB", (first.width, 1), "white")
        rows += [[blank if k else first, *(cells[i] for i in row)] for k, row in enumerate(sweep.rows())]
    return laid_out(rows, max(map(len, rows)), heading, "")


_LARGEST_WRITTEN = 14  # windows a row, up to which each cell has its number


def draw_window_scores(found: WindowScores, example: int) -> Image.Image:
    """Draw the picture, the occlusion map and the grid of scores, each cell a window."""
    grid, a = found.scores[example].detach().double().cpu(), found.attribution
    if grid.ndim != 2:
        raise ValueError(f"show: windows at {tuple(grid.shape)} places; rows and columns of windows can be drawn")
    seen = picture_of(chosen_bands(a.inputs[example][None])[0])
    heatmap = a.viewed()[example].detach().float().cpu()
    scale = replace(scale_of(grid.nan_to_num(0.0)), clipped=0.0)
    scale = replace(scale, limit=max(scale.limit, float(grid.nan_to_num(0.0).abs().max())))
    cells = Image.fromarray(colourise(grid, scale))
    side = max(1, CELL // max(grid.shape))
    drawn = cells.resize((side * grid.shape[1], side * grid.shape[0]), Image.Resampling.NEAREST)
    if max(grid.shape) <= _LARGEST_WRITTEN:
        _write_numbers(drawn, grid, side)
    hidden = f"f(x) {float(found.unhidden[example]):.3g}"
    row = [
        captioned(fit(seen, CELL), "picture", (size_of(seen), hidden)),
        map_cell(a.name, seen, heatmap, scale_of(heatmap), ()),
        captioned(drawn, "score with each window hidden", (hidden,), colour_bar(scale, drawn.height)),
    ]
    return laid_out([row], len(row), f"target {describe_target(a, example)}", "")


def _write_numbers(image: Image.Image, grid: Tensor, side: int) -> None:
    """Write each number into its cell, dark on bright cells and bright on dark ones."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(6, side // 4))
    bright = np.asarray(image.convert("L"))
    for row, column in np.ndindex(*grid.shape):
        middle = int((row + 0.5) * side), int((column + 0.5) * side)
        ink = "black" if bright[middle] > 128 else "white"
        draw.text((middle[1], middle[0]), f"{float(grid[row, column]):.2g}", fill=ink, font=font, anchor="mm")
