"""Frozen copies of models and their scores."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def frozen(model: nn.Module) -> nn.Module:
    """A double-precision copy in evaluation mode whose parameters need no gradients."""
    return copy.deepcopy(model).double().eval().requires_grad_(False)


def logit(model: nn.Module, target: int = 0) -> Callable[[Tensor], Tensor]:
    """The score of one class, one number a row."""
    copied = frozen(model)
    return lambda rows: copied(rows)[:, target]


def randomise_batch_norm(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm random statistics, scales of both signs and shifts."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5), (module.bias.data, -0.2, 0.2),
            ):  # fmt: skip
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


def constant(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that are the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
