"""Maps made visible: colour scales, pictures and pages from tensors, PIL images and strings alone."""

from .colour import Scale, colourise, scale_of
from .html import html_fragment, write_html
from .image import Tile, colour_bar, draw_grid, draw_panel, draw_tile, overlay, picture_of, save_png

__all__ = [
    "Scale",
    "Tile",
    "colour_bar",
    "colourise",
    "draw_grid",
    "draw_panel",
    "draw_tile",
    "html_fragment",
    "overlay",
    "picture_of",
    "save_png",
    "scale_of",
    "write_html",
]
