"""What `limelight methods` and `limelight models` list."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limelight import METHODS, Method
from limelight.layers import captured, traced
from limelight.models import ImageModel


def method_documents() -> list[dict[str, Any]]:
    """A line for each of METHODS, read off its class."""
    return [_method_document(kind) for kind in METHODS]


def _method_document(kind: type[Method]) -> dict[str, Any]:
    method = kind()
    needs = method.needs
    return {
        "name": kind.kebab(),
        "class": kind.__name__,
        "summary": (inspect.getdoc(kind) or "").partition("\n")[0],
        "fields": {each.name: repr(getattr(method, each.name)) for each in dataclasses.fields(method)},
        "needs": [need for need in ("gradients", "layer", "baseline") if getattr(needs, need)],
        "complete": method.no_sum is None,
    }


@dataclass(frozen=True)
class Layer:
    """A layer that returns a spatial map: its shape (channels first), and the L2 norms of the map and of the top
    class's gradient there."""

    name: str
    shape: tuple[int, ...]
    activation: float
    gradient: float


def layers_of(model: ImageModel, pixels: Tensor) -> tuple[list[Layer], str]:
    """The layers that run once and return a spatial map, in order of use, and the one `explain()` would choose."""
    modules = dict(model.named_modules())
    with torch.no_grad(), traced(modules) as seen:
        model(pixels)
    names = [name for name, _ in seen.maps]
    shapes = {name: shape for name, shape in seen.maps if names.count(name) == 1}
    chosen = seen.choose()[0]
    with captured(modules, tuple(shapes)) as maps:
        outputs = model(pixels.requires_grad_())
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise ValueError(f"model: {model.name} returns no vector of classes, whose gradient could be followed")
    gradients = torch.autograd.grad(outputs.max(), list(maps.values()), allow_unused=True)
    slopes = dict(zip(maps, gradients, strict=True))
    return [Layer(name, shape, _norm(maps[name]), _norm(slopes[name])) for name, shape in shapes.items()], chosen


def _norm(values: Tensor | None) -> float:
    return 0.0 if values is None else float(values.detach().norm())
