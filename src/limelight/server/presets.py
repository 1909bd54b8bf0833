"""What to pick: three sets of methods for somebody who does not know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..methods import GradCAM, Gradient, Method, SmoothGrad
from ..models.catalogue import AnyImageModel
from ..show.explained import BLACK_BOX_METHODS, DEFAULT_METHODS, fitting


@dataclass(frozen=True)
class Preset:
    """A set of methods with its name and one sentence on when to choose it."""

    name: str
    sentence: str
    methods: tuple[Method, ...]


PRESETS = (
    Preset("Quick look", "A few maps within seconds.", (Gradient(), SmoothGrad(samples=8), GradCAM())),
    Preset("Careful", "The maps of 'limelight explain', from five kinds of method.", DEFAULT_METHODS),
    Preset("Black box", "Maps that need the model's answers alone, and many of them.", BLACK_BOX_METHODS),
)


def presets_for(model: AnyImageModel, say: Callable[[str], None] = lambda _: None) -> list[Preset]:
    """Return the presets that the model can be asked, each with the methods that fit it; the first is the page's own.

    Of black boxes that is the last alone.
    """
    if not isinstance(model, nn.Module):
        return [PRESETS[-1]]
    return [Preset(each.name, each.sentence, fitting(model, each.methods, say)) for each in PRESETS]
