"""Fonts for the letters of texts: the first installed one that has a letter draws it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

from .layouts import drawable

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Beside matplotlib's own: looked for where the system keeps its fonts.
_INSTALLED = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoEmoji-Regular.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
_MISSING = "\U0010fffe"  # a code point that is no letter: fonts draw their sign for a missing one


@cache
def fonts(size: int) -> tuple[Font, ...]:
    """Return the fonts in the order in which they are tried; Pillow's own, which has ASCII, where there is no other."""
    spec = find_spec("matplotlib")
    own = (
        [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"]
    )
    found: dict[str, Font] = {}
    for name in (*map(str, own), *_INSTALLED):
        try:
            # Letters are placed one by one; the basic layout draws the same on every machine.
            found.setdefault(Path(name).name, ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC))
        except OSError:
            continue  # not installed
    return tuple(found.values()) or (ImageFont.load_default(size),)


def spelled(letters: str, size: int) -> list[tuple[Font, str]]:
    """Split letters into runs of one font each; letters that no font has are replaced as `drawable` does."""
    first = fonts(size)[0]
    chosen = [
        (font, each) if (font := _font_for(each, size)) else (first, drawable(each) if each.isprintable() else "")
        for each in letters
    ]
    return [(font, "".join(each for _, each in run)) for font, run in groupby(chosen, key=lambda pair: pair[0])]


@cache
def width_of(letter: str, size: int) -> float:
    """Return the width in pixels of one letter as `spelled` draws it."""
    return float(sum(font.getlength(run) for font, run in spelled(letter, size) if run))


@cache
def _font_for(letter: str, size: int) -> Font | None:
    if letter == " ":
        return fonts(size)[0]
    for font in fonts(size):
        if isinstance(font, ImageFont.FreeTypeFont) and isinstance(font.path, str):
            if letter.isprintable() and _ink(font, letter) != _ink(font, _MISSING):
                return font
        elif drawable(letter) == letter:  # Pillow's own, whose missing letters look like no others
            return font
    return None


@cache
def _ink(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
