"""Tiles and pictures of attributions: each map as its view draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from ..base.attribution import Attribution, describe_target
from ..base.named import settings_of
from ..base.notes import Place
from ..base.text import Text
from ..base.view import View, view_of
from .image import Tile
from .subject import drawing_of, text_drawing, units_drawing
from .words import Words, by_pieces


def tiles_of(attribution: Attribution, example: Place = 0, view: View | str | None = None) -> list[Tile]:
    """Return the maps of one example with their captions, one for each of its targets.

    `view`: how they are read and drawn; None is the method's own view.
    """
    if _predicted(attribution, example):
        return [_matrix_of(attribution, example, view_of(view, attribution.view))]
    places = [example]
    if attribution.score.ndim == 2 and isinstance(example, int):
        places = [(example, k) for k in range(attribution.score.shape[1])]
    # The token that one of several targets predicts stands in the title; other single targets are in the heading.
    named = len(places) > 1 or (bool(attribution.texts) and attribution.score.ndim == 2)
    tiles = []
    for place in places:
        index = attribution._place(place)
        values = attribution.values[index].detach().float().cpu()
        read = view_of(view, attribution.view)
        lines, warning = attribution.caption(place, read), bool(attribution.cautions)
        text = text_of_example(attribution, place)
        tile = (
            tile_of(attribution.name, lines, values, read, warning)
            if text is None
            else text_tile(attribution.name, lines, values, text, read, warning)
        )
        tiles.append(
            replace(
                tile,
                sampled=attribution.stderr is not None or attribution.steadiness is not None,
                total=float((values if tile.values is None else tile.values).double().sum())
                if attribution.complete
                else None,
                settings=settings_of(attribution.method),
                title=f"{attribution.name}: {_target(attribution, place)}" if named else attribution.name,
            )
        )
    return tiles


def _target(attribution: Attribution, place: Place) -> str:
    """Describe one target of several: of a text that is continued, the token that it predicts."""
    text = text_of_example(attribution, place)
    if text is None or isinstance(place, int) or place[1] >= text.continued:
        return describe_target(attribution, place)
    return f"predicts “{Words(text).predicted(len(text) - text.continued + place[1])}”"


def text_of_example(attribution: Attribution, example: Place) -> Text | None:
    """Return the text of one example, or None."""
    return attribution.texts[example if isinstance(example, int) else example[0]] if attribution.texts else None


def _predicted(attribution: Attribution, example: Place) -> tuple[int, ...]:
    """Return the tokens that the targets of an example predict, where all of them are drawn together; else none."""
    text = text_of_example(attribution, example)
    if text is None or attribution.score.ndim != 2 or not isinstance(example, int):
        return ()
    targets = attribution.score.shape[1]
    first = len(text) - text.continued
    return tuple(range(first, first + targets)) if 1 < targets <= text.continued else ()


def _matrix_of(attribution: Attribution, example: Place, view: View) -> Tile:
    """Return the maps of all targets of a text as one, on one scale."""
    assert isinstance(example, int)
    text = attribution.texts[example]
    values, scores = attribution.values[example].detach().float().cpu(), attribution.score[example]
    worst = float(attribution.delta[example].abs().max())
    lines = [
        f"{len(values)} predicted tokens on one scale, scores {float(scores.min()):.4g} to {float(scores.max()):.4g}",
        *([f"delta at most {worst:.2g}"] if attribution.complete else []),
        *attribution.cost_words(),
    ]
    tile = text_tile(attribution.name, lines, values, text, view, bool(attribution.cautions))
    return replace(tile, settings=settings_of(attribution.method))


def text_tile(title: str, lines: Sequence[str], values: Tensor, text: Text, view: View, warning: bool = False) -> Tile:
    """Return the tile of a map `(channels, tokens)` of a text, or `(targets, channels, tokens)`, by its pieces.

    Neighbouring tokens may be unrelated, so smoothing and blocks do not apply. Raises ValueError for a map of fewer
    tokens than the text has.
    """
    read = replace(view, smooth=0.0, blocks=1)
    by_piece = by_pieces(values, text)
    seen = read.of(by_piece[None])[0]
    heatmap = seen if seen.ndim == 2 else seen[None]
    return Tile(title, tuple(lines), heatmap, None, warning, view=read, values=by_piece, channels=values.shape[-2])


def tile_of(title: str, lines: Sequence[str], values: Tensor, view: View, warning: bool = False) -> Tile:
    """Return the tile of a map `(channels, *space)`, or of columns `(features)`, as the view draws it."""
    bars = values.ndim == 1
    if bars:
        view = replace(view, percentile=100.0)  # no bar is cut
    # Bars have the colour of their sign, whatever signs there are.
    signed = True if bars else None
    return Tile(title, tuple(lines), drawn_map(values, view), signed, warning, view=view, values=values)


def drawn_map(values: Tensor, view: View) -> Tensor:
    """Return a map `(channels, *space)` or `(features)` as the view draws it, two-dimensional.

    `(H, W)` for pictures, with each block as many pixels; slices one below the other for volumes; `(channels, time)`
    for series; `(features, 1)` for columns.
    """
    seen = view.drawn(values[None])[0]
    if values.ndim == 1:
        return seen[:, None]
    if values.ndim == 2:
        return seen
    if view.blocks > 1:
        for axis, size in enumerate(values.shape[1:]):
            seen = seen.repeat_interleave(view.blocks, axis).narrow(axis, 0, size)
    return seen.reshape(-1, seen.shape[-1])


def picture_of_example(attribution: Attribution, example: Place = 0, view: View | str | None = None) -> Image.Image:
    """Draw the inputs of one example; of a volume the planes through the voxel where the map is strongest."""
    place = example if isinstance(example, int) else example[0]
    read = view_of(view, attribution.view)
    if attribution.texts:
        return text_drawing(attribution.texts[place], _predicted(attribution, example))
    inputs, values = attribution.inputs[place], attribution.values[attribution._place(example)].detach().double().cpu()
    if values.ndim == 1 and values.shape != inputs.shape:  # of a layer's units, which are no positions of the inputs
        return units_drawing(len(values), read.sort)
    strongest = 0
    if inputs.ndim == 4:
        strongest = int(drawn_map(values, read).abs().nan_to_num(-1.0).argmax())
    return drawing_of(inputs, strongest, attribution.names, read.bands, read.sort)
