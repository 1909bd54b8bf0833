"""Batch normalisation during training, folded into the convolutions' weights afterwards."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...models.rock_paper_scissors import PublishedHands, SmallHands

Network = TypeVar("Network", bound=PublishedHands | SmallHands)


def normalised(network: Network) -> Network:
    """Add a batch normalisation [ioffe2015] after every convolution, in place, and return the network.

    It trains in a few epochs, where the plain network needs many.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in network.features.named_children():
        layers[name] = module
        if isinstance(module, nn.Conv2d):
            layers[name.replace("conv", "norm")] = nn.BatchNorm2d(module.out_channels)
    network.features = nn.Sequential(layers)
    return network


def folded(network: Network) -> Network:
    """Copy the network without the normalisations, with the published layers and the same outputs in eval mode.

    With running mean m and variance v, g (w x + b - m) / sqrt(v + eps) + c is a convolution with weights
    g w / sqrt(v + eps) and bias g (b - m) / sqrt(v + eps) + c.
    """
    plain = copy.deepcopy(network)
    plain.eval()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in plain.features.named_children():
        if isinstance(module, nn.BatchNorm2d):
            before, convolution = layers.popitem()
            assert isinstance(convolution, nn.Conv2d)
            layers[before] = fuse_conv_bn_eval(convolution, module)
        else:
            layers[name] = module
    plain.features = nn.Sequential(layers)
    return plain
