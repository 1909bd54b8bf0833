"""Tables of phonemes by letters: as a picture, and as a part of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...show import Scale, colourise, scale_of
from .words import Aligned

_CELL, _LEFT, _TOP, _GAP = 46, 52, 46, 30
_INK, _OUTLINE = (20, 20, 20), (0, 0, 0)


def draw_tables(word: Aligned, said: Sequence[str], tables: dict[str, Tensor]) -> Image.Image:
    """Draw the tables of a word side by side; each has its own scale, and the alignment's cells have an outline."""
    width = _LEFT + _CELL * len(word.word) + _GAP
    image = Image.new("RGB", (width * len(tables), _TOP + _CELL * len(said) + 10), "white")
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(12)
    for number, (name, table) in enumerate(tables.items()):
        left, values = width * number + _LEFT, table[:, :-1]
        scale = scale_of(values, signed=True, percentile=100)
        colours = colourise(values, scale)
        draw.text((left, 4), name, _INK, font)
        for column, letter in enumerate(word.word):
            draw.text((left + (column + 0.5) * _CELL, _TOP - 4), letter, _INK, font, anchor="ms")
        for row, phoneme in enumerate(said):
            top = _TOP + row * _CELL
            draw.text((left - 6, top + _CELL / 2), phoneme, _INK, font, anchor="rm")
            for column in range(len(word.word)):
                colour = tuple(int(each) for each in colours[row, column])
                at = left + column * _CELL
                draw.rectangle((at, top, at + _CELL - 2, top + _CELL - 2), colour)
                if column in word.truth[row]:
                    draw.rectangle((at, top, at + _CELL - 2, top + _CELL - 2), outline=_OUTLINE, width=2)
                middle = (at + _CELL / 2, top + _CELL / 2)
                draw.text(middle, _number(values[row, column]), _ink(colour), small, anchor="mm")
    return image


def table_html(word: Aligned, said: Sequence[str], name: str, table: Tensor) -> str:
    """Return the table as HTML: colours as in the picture, the alignment's cells with an outline."""
    values = table[:, :-1]
    scale: Scale = scale_of(values, signed=True, percentile=100)
    colours = colourise(values, scale)
    head = "".join(f"<th>{escape(letter)}</th>" for letter in word.word)
    rows = []
    for row, phoneme in enumerate(said):
        cells = []
        for column in range(len(word.word)):
            colour = tuple(int(each) for each in colours[row, column])
            outline = "outline:2px solid #000;outline-offset:-2px;" if column in word.truth[row] else ""
            style = f"background:rgb{colour};color:rgb{_ink(colour)};{outline}"
            cells.append(f'<td style="{style}">{_number(values[row, column])}</td>')
        rows.append(f"<tr><th>{escape(phoneme)}</th>{''.join(cells)}</tr>")
    caption = f"<caption>{escape(name)}</caption>"
    return f'<table class="heat">{caption}<thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _number(value: Tensor) -> str:
    number = f"{float(value):.2g}" if abs(float(value)) < 1 else f"{float(value):.1f}"
    return number if abs(float(value)) >= 0.005 and len(number) < 7 else f"{float(value):.0e}" if float(value) else "0"


def _ink(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Return black or white, whichever is read better on the colour."""
    red, green, blue = colour
    return (20, 20, 20) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)
