# Drawing for this page.
from io import BytesIO

from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure


def plot(figure, caption):
    """Show a figure of matplotlib as a JPEG, with what to see in it."""
    content = BytesIO()
    figure.savefig(content, format="jpeg", dpi=80, bbox_inches="tight", pil_kwargs={"quality": 72})
    display(Image(content.getvalue(), format="jpeg", alt=caption), Markdown(f"*{caption}*"))


def sheet(rows, caption):
    """Show rows of (title, picture or map). A map has a scale of its own: red is for the class and blue against it."""
    across = max(map(len, rows))
    figure = Figure((1.75 * across, 2 * len(rows)), layout="constrained")
    places = figure.subplots(len(rows), across, squeeze=False)
    for place in places.flat:
        place.axis("off")
    for line, row in zip(places, rows):
        for place, (title, drawn) in zip(line, row):
            place.set_title(title, fontsize=8, loc="left")
            if drawn.ndim == 3:
                place.imshow(drawn.permute(1, 2, 0).clamp(0, 1))
                continue
            limit = float(drawn.abs().double().quantile(0.995)) or 1.0
            signed = bool((drawn < 0).any())
            colours = {"cmap": "RdBu_r", "vmin": -limit} if signed else {"cmap": "inferno", "vmin": 0}
            place.imshow(drawn, vmax=limit, **colours)
    plot(figure, caption)
