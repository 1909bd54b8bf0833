"""Lines along a path, as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..evaluation.along_path import AlongPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RGB = (("red", "#b2182b"), ("green", "#1b7837"), ("blue", "#2166ac"))


def draw_along_path(found: AlongPath, example: int) -> Figure:
    """Draw the share of the largest derivative for each channel, and the gradient's autocorrelation.

    Raises ImportError without the extra `plot`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"a figure needs the extra 'plot': pip install 'limelight[plot]' ({error})") from error
    figure = Figure((9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = found.share[example]
    channels = shares.shape[1]
    for channel in range(channels):
        name, colour = _RGB[channel] if channels == 3 else (f"channel {channel + 1}", None)
        left.plot(found.times, shares[:, channel], label=name, color=colour, linewidth=1.2)
    left.axhline(0, color="0.8", linewidth=0.8)
    left.set(xlabel="share of the way from the baseline", ylabel="derivative, share of the largest", ylim=(-1.05, 1.05))
    left.set_title(f"pixel {', '.join(map(str, found.pixel))}", loc="left")
    if channels <= 8:
        left.legend(frameon=False, fontsize="small")
    correlation = found.autocorrelation[example]
    right.plot(range(len(correlation)), correlation, color="0.15", linewidth=1.2)
    right.axhline(0, color="0.8", linewidth=0.8)
    right.set(xlabel=f"steps of 1/{len(found.times) - 1} of the way", ylabel="autocorrelation of the gradient")
    right.set_title("all pixels", loc="left")
    return figure
