"""What is explained: a model, a picture, a class, references to compare with and the layer that CAMs read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

import limelight as ll

from .operators import torchvision

PICTURE, REFERENCES = "chelsea", ("astronaut", "coffee", "rocket")


@dataclass(frozen=True, eq=False)
class Scene:
    """`x` is `(1, 3, H, W)` in [0, 1]; `references` `(m, 3, H, W)`; `target` is the model's top class.

    `model` is bare: every call copies it. `prepared` is a snapshot of it.
    """

    name: str
    model: nn.Module
    prepared: ll.Prepared
    x: Tensor
    references: Tensor
    target: int
    layer: str


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def scene(name: str) -> Scene:
    """`efficientnet-lite0` with its ImageNet weights, or a torchvision name with seeded random ones."""
    lite = ll.load_model("efficientnet-lite0", device=device())
    assert isinstance(lite, ll.ImageModel)
    lite.loaded = False  # or its copies would be kept
    pictures = [lite.preprocess(ll.demo_image(each)) for each in (PICTURE, *REFERENCES)]
    x, others = pictures[0], torch.cat(pictures[1:])
    model: nn.Module = lite
    if name != "efficientnet-lite0":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = getattr(torchvision().models, name)(weights=None).eval().to(device())
            for part in model.modules():
                if isinstance(part, nn.Linear) and not bool(part.weight.any()):  # a ViT's head starts at zero
                    nn.init.normal_(part.weight, std=0.02)
    with torch.no_grad():
        target = int(model(x).argmax())
    layer = ll.explain(model, x, ll.GradCAM(), target=target).layer
    assert layer is not None
    return Scene(name, model, ll.prepare(model), x, torch.cat([others, others.flip(-1)]), target, layer)
