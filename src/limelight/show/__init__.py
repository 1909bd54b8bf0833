"""Drawing of maps: colour scales, pictures and pages, made from tensors, PIL images and strings alone."""

from .colour import Scale, colourise, scale_of
from .figure import draw_figure
from .html import html_fragment, report_fragment, write_html, write_report
from .image import Tile, colour_bar, draw_grid, draw_panel, draw_tile, overlay, picture_of, save_png
from .payload import Row, map_payload, picture_payload, section_payload, viewer_payload

__all__ = [
    "Row",
    "Scale",
    "Tile",
    "colour_bar",
    "colourise",
    "draw_figure",
    "draw_grid",
    "draw_panel",
    "draw_tile",
    "html_fragment",
    "map_payload",
    "overlay",
    "picture_of",
    "picture_payload",
    "report_fragment",
    "save_png",
    "scale_of",
    "section_payload",
    "viewer_payload",
    "write_html",
    "write_report",
]
