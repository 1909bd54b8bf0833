"""Drawing of maps: colour scales, pictures and pages, from tensors, PIL images and strings."""

from .colour import Scale as Scale, colourise as colourise, scale_of as scale_of
from .drawn import drawn_map as drawn_map, tile_of as tile_of, tiles_of as tiles_of
from .figure import draw_figure as draw_figure
from .html import (
    html_fragment as html_fragment,
    report_fragment as report_fragment,
    write_html as write_html,
    write_report as write_report,
)
from .image import (
    Tile as Tile,
    colour_bar as colour_bar,
    draw_grid as draw_grid,
    draw_panel as draw_panel,
    draw_tile as draw_tile,
    overlay as overlay,
    picture_of as picture_of,
    picture_of_bands as picture_of_bands,
    save_png as save_png,
)
from .payload import (
    Row as Row,
    card_payload as card_payload,
    map_payload as map_payload,
    picture_payload as picture_payload,
    viewer_payload as viewer_payload,
)
from .subject import drawing_of as drawing_of
from .summary import Summary as Summary, summary_of as summary_of
