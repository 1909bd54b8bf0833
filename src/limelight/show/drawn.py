"""Tiles and pictures of attributions: each map as its view draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from ..base.attribution import Attribution, describe_target
from ..base.named import settings_of
from ..base.notes import Place
from ..base.view import View, view_of
from .image import Tile
from .subject import drawing_of


def tiles_of(attribution: Attribution, example: Place = 0, view: View | str | None = None) -> list[Tile]:
    """Return the maps of one example with their captions, one for each of its targets.

    `view`: how they are read and drawn; None is the method's own view.
    """
    places = [example]
    if attribution.score.ndim == 2 and isinstance(example, int):
        places = [(example, k) for k in range(attribution.score.shape[1])]
    alone = len(places) == 1
    tiles = []
    for place in places:
        index = attribution._place(place)
        values = attribution.values[index].detach().float().cpu()
        read = view_of(view, attribution.view)
        tiles.append(
            replace(
                tile_of(attribution.name, attribution.caption(place, read), values, read, bool(attribution.cautions)),
                sampled=attribution.stderr is not None or attribution.steadiness is not None,
                total=float(values.double().sum()) if attribution.complete else None,
                settings=settings_of(attribution.method),
                title=attribution.name if alone else f"{attribution.name}: {describe_target(attribution, place)}",
            )
        )
    return tiles


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
    inputs = attribution.inputs[place]
    strongest = 0
    if inputs.ndim == 4:
        values = attribution.values[attribution._place(example)].detach().double().cpu()
        strongest = int(drawn_map(values, read).abs().nan_to_num(-1.0).argmax())
    return drawing_of(inputs, strongest, attribution.names, read.bands, read.sort)
