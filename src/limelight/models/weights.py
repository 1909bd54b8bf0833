"""Weights from files, without unpickling anything but tensors."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class ModelError(ValueError):
    """A model that isn't available; the message names it, the reason and what would work."""


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file, or a .pt or .pth file through `torch.load(weights_only=True)`.

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
    """The parameters and buffers by name as bytes, for hashing: different states give different bytes."""
    for name, value in module.state_dict().items():
        yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)


def bytes_of(values: Tensor) -> bytes:
    """The bytes of a tensor's values, in order."""
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
        raise ModelError(f"{origin} does not fit {type(network).__name__}: {_shorten(str(error))}") from error
    places = {name: _place(weight) for name, weight in network.state_dict().items() if _is_weight(weight)}
    loaded = {places[name] for name in state if name in places}
    missing = [name for name in missing if places.get(name) not in loaded]
    if missing or unexpected:
        raise ModelError(
            f"{origin} does not fit {type(network).__name__}: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )


def _is_weight(value: object) -> bool:
    """Whether it is a weight of known shape, not a module's extra state, which may be anything."""
    return isinstance(value, Tensor) and not is_lazy(value)


def _place(weight: Tensor) -> tuple[Any, ...]:
    """The place and layout of a weight in memory, which are equal for tied weights alone."""
    return weight.data_ptr(), weight.dtype, weight.shape, weight.stride()


def _some(keys: list[str], most: int = 4) -> str:
    shown = ", ".join(keys[:most]) or "none"
    return shown + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _shorten(text: str, most: int = 4) -> str:
    """Shorten torch's report of misshapen weights, which has a heading and one line for each."""
    lines = [line.strip() for line in text.splitlines()[1:]]
    return " ".join(lines[:most]) + (f" and {len(lines) - most} more" if len(lines) > most else "")
