"""A trust card drawn under a panel: sections of entries with a mark, a name, a figure and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from itertools import pairwise

from PIL import Image, ImageDraw

from ..evaluation.card import Section
from .image import _AMBER, _FAINT, _GAP, _HEADING, _INK, _TEXT, _height, _wrapped, _write

_GOOD, _BAD = (20, 120, 60), (190, 40, 30)
_MARKS = {"pass": _GOOD, "above": _GOOD, "FAIL": _BAD, "NOT ABOVE": _AMBER}
_COLUMNS = (0, 110, 340, 520)  # mark, name, figure, words
_LEAST_WIDTH = 1100


def draw_card(panel: Image.Image, heading: str, headline: str, sections: Sequence[Section]) -> Image.Image:
    """Draw the heading, one sentence and the sections below the panel."""
    width = max(panel.width, _LEAST_WIDTH)
    room = width - 2 * _GAP
    blocks: list[tuple[int, list[tuple[int, list[str], tuple[int, int, int]]]]] = []
    widths = [*(end - start - 8 for start, end in pairwise(_COLUMNS)), room - _COLUMNS[-1]]
    for section in sections:
        title = _wrapped(section.title, _TEXT + 2, room)
        blocks.append((_height(title, _TEXT + 2) + 8, [(0, title, _INK)]))
        for entry in section.entries:
            columns = [_wrapped(text, _TEXT, width) for text, width in zip(astuple(entry), widths, strict=True)]
            colours = (_MARKS.get(entry.mark, _FAINT), _INK, _INK, _FAINT)
            height = max(_height(each, _TEXT) for each in columns) + 3
            blocks.append((height, list(zip(_COLUMNS, columns, colours, strict=True))))
    top = panel.height + _GAP // 2
    above = _wrapped(heading, _HEADING, room)
    below = _wrapped(headline, _TEXT + 2, room)
    start = top + _height(above, _HEADING) + _height(below, _TEXT + 2) + 12
    card = Image.new("RGB", (width, start + sum(height for height, _ in blocks) + 8 * len(sections) + _GAP), "white")
    card.paste(panel, (0, 0))
    draw = ImageDraw.Draw(card)
    _write(draw, (_GAP, top), above, _HEADING)
    _write(draw, (_GAP, top + _height(above, _HEADING) + 4), below, _TEXT + 2)
    y = start
    for height, cells in blocks:
        single = len(cells) == 1
        y += 8 if single else 0
        for x, lines, colour in cells:
            _write(draw, (_GAP + x, y), lines, _TEXT + 2 if single else _TEXT, colour)
        y += height
    return card
