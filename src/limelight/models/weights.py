"""Weights from files, without unpickling anything but tensors."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves


class ModelError(ValueError):
    """A model that isn't available; the message names it, the reason and what would work."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or a .pt or .pth file through `torch.load(weights_only=True)`.

    Of a training checkpoint with a state dict under the key "state_dict", that one is returned.

    Raises ModelError for a missing or damaged file, another suffix, or a pickle that holds more than tensors.
    """
    try:
        match path.suffix.lower():
            case ".safetensors":
                return load_file(path)
            case ".pt" | ".pth":
                state = torch.load(path, map_location="cpu", weights_only=True)
            case suffix:
                raise ModelError(f"weights={str(path)!r}: suffix {suffix!r}; use .safetensors, .pt or .pth")
    except FileNotFoundError as error:
        raise ModelError(f"weights={str(path)!r}: no such file") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights={str(path)!r} holds more than tensors, and limelight never unpickles code; where you "
            "trust the file, load it yourself and save model.state_dict() with safetensors.torch.save_file"
        ) from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"weights={str(path)!r}: damaged, or not a weights file: {error}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"weights={str(path)!r}: not a state dict; save model.state_dict()")
    return dict(state)


def state_bytes(module: nn.Module) -> Iterator[bytes]:
    """Yield the parameters and buffers by name as bytes, for hashing: different states give different bytes."""
    for name, held in module.state_dict().items():
        for value in tree_leaves(held):  # quantised layers hold a tuple of tensors, and a dtype
            if isinstance(value, Tensor):
                yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
                yield bytes_of(value.dequantize() if value.is_quantized else value)
            else:
                yield f"{name} {value!r}".encode()


def bytes_of(values: Tensor) -> bytes:
    """Return the bytes of a tensor's values, in order."""
    return values.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def load_state(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load every weight of `network` from `state`, strictly; one of several tied weights is enough.

    Raises ModelError that names the first missing, unexpected and misshapen ones; the network may then be
    half loaded.
    """
    try:
        # Not strict=True: its error lists every key, and its missing keys are all there is to say.
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        # torch's report has a heading and one line for each misshapen weight.
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ModelError(f"{origin} does not fit {type(network).__name__}: {_some(lines, ' ')}") from error
    # A weight's place and layout in memory are equal for tied weights alone. What is not a tensor is a module's extra
    # state, which may be anything.
    places = {
        name: (weight.data_ptr(), weight.dtype, weight.shape, weight.stride())
        for name, weight in network.state_dict().items()
        if isinstance(weight, Tensor) and not is_lazy(weight)
    }
    loaded = {places[name] for name in state if name in places}
    missing = [name for name in missing if places.get(name) not in loaded]
    if missing or unexpected:
        raise ModelError(
            f"{origin} does not fit {type(network).__name__}: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )


def _some(texts: list[str], joint: str = ", ", most: int = 4) -> str:
    shown = joint.join(texts[:most]) or "none"
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")
