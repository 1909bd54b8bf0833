"""Two classifiers of rock, paper and scissors in a photograph of a hand, as 150 x 150 pixels in [0, 1]."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

CLASSES = ("paper", "rock", "scissors")
SIZE = 150
_WIDTHS = ((32, 64), (128, 128), (256, 256))


def convolutions() -> nn.Sequential:
    """Build 3 x 3 convolutions with ReLU and 2 x 2 max-poolings, (rows, 3, H, W) -> (rows, 256, H // 8, W // 8)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for block, widths in enumerate(_WIDTHS, start=1):
        for place, outputs in enumerate(widths, start=1):
            layers[f"conv{block}_{place}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers[f"relu{block}_{place}"] = nn.ReLU()
            inputs = outputs
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


class PublishedHands(nn.Sequential):
    """The published study's network: the convolutions, and three linear layers over 18 x 18 x 256 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = convolutions()
        side = SIZE // 8
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                linear1=nn.Linear(_WIDTHS[-1][-1] * side * side, 1024),
                relu1=nn.ReLU(),
                linear2=nn.Linear(1024, 512),
                relu2=nn.ReLU(),
                linear3=nn.Linear(512, len(CLASSES)),
            )
        )
        initialise(self)


class SmallHands(nn.Sequential):
    """The same convolutions, their mean over all positions, and one linear layer: 1.1 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = convolutions()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(_WIDTHS[-1][-1], len(CLASSES))
        initialise(self)


def initialise(network: nn.Module) -> None:
    """Draw normal weights of variance 2 / inputs and no biases [he2015], so that the sixth layer still varies."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
