"""What a model and its inputs have to be like before any row is run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Modules


def channels_last_pays(modules: Modules, inputs: Tensor) -> bool:
    """Whether forward-only passes run channels-last: float32 pictures through 2-D convolutions on the CPU."""
    return (
        inputs.ndim == 4
        and inputs.shape[2] * inputs.shape[3] >= 32 * 32
        and inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and any(isinstance(module, nn.Conv2d) for module in modules.values())
    )


def refuse_batch_statistics(modules: Modules) -> None:
    """Raise ValueError for a norm over the batch, with which the rows of a pass depend on each other."""
    for name, module in modules.items():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model: {name!r} normalises by the statistics of its batch (track_running_stats=False), so the "
                "score of an example depends on the others; give it running statistics"
            )


def require_same_kind(modules: Modules, inputs: Tensor) -> None:
    """Raise TypeError or ValueError for inputs of another dtype or on another device than the parameters."""
    parameters = [each for module in modules.values() for each in module._parameters.values() if each is not None]
    dtypes = sorted({each.dtype for each in parameters if each.is_floating_point()}, key=str)
    devices = sorted({each.device for each in parameters}, key=str)
    if dtypes and inputs.dtype not in dtypes and not torch.is_autocast_enabled(inputs.device.type):
        found = ", ".join(map(str, dtypes))
        raise TypeError(f"inputs: {inputs.dtype}, but the model's parameters are {found}; use inputs.to({found})")
    if any(device.type == "meta" for device in devices):
        raise ValueError("model: parameters on the device 'meta' hold no values; load the model's weights first")
    if devices and inputs.device not in devices:
        found = ", ".join(map(str, devices))
        raise ValueError(f"inputs: on {inputs.device}, but the model's parameters are on {found}; move one of them")
