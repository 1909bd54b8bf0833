"""Weights from files, without unpickling anything but tensors."""

import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from ..base.tensor_bytes import rows_of_bytes


class ModelError(ValueError):
    """A model that isn't available; the message names it, the reason and what would work."""


NESTED = ("state_dict", "model_state_dict", "model", "ema", "state_dict_ema", "model_ema", "net", "network")
"""The keys under which training scripts keep a state dict, in the order in which they are looked for."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or a .pt, .pth or .ckpt file by `torch.load(weights_only=True)`.

    Of a training checkpoint the state dict under one of the keys NESTED is returned.

    Raises ModelError for a missing or damaged file, another suffix, or a pickle that holds more than tensors.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"weights={str(path)!r}: suffix {path.suffix!r}; use {', '.join(SUFFIXES)}")
    with reading(path, "weights"):
        state: Any = load_file(path) if path.suffix.lower() == ".safetensors" else load_tensors(path)
    for _ in range(2):  # Lightning's checkpoint of an averaged model nests twice
        nested = next((key for key in NESTED if isinstance(state, Mapping) and isinstance(state.get(key), Mapping)), "")
        state = state[nested] if nested else state
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"weights={str(path)!r}: not a state dict; save model.state_dict()")
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ModelError(f"weights={str(path)!r}: not a state dict: {some(strange)} hold no tensor")
    return dict(state)


def load_tensors(file: Path | IO[bytes]) -> Any:
    """Load what holds tensors and plain values, on the CPU. Raises pickle.UnpicklingError for anything else."""
    return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def reading(path: Path, argument: str) -> Iterator[None]:
    """Turn the errors of reading a file of tensors into a ModelError that names the argument and the file."""
    place = f"{argument}={str(path)!r}"
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"{place}: no such file") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{place} holds more than tensors, and limelight never unpickles code; where you "
            "trust the file, load it yourself and save model.state_dict() with safetensors.torch.save_file"
        ) from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{place}: damaged, or not a weights file: {error}") from error


def without_prefix(state: Mapping[str, Tensor], names: Collection[str], origin: str) -> Mapping[str, Tensor]:
    """Return the state with the names of the network, where its own begin with what wrapped it, as "model.fc.bias".

    The wrapper's name is whatever stands before the most names of the network, such as `model.`, `net.`, `module.` or
    `_orig_mod.`; other weights beside them, such as those of a loss, are left out. A state that has names of the
    network as they are is returned unchanged. Raises ModelError where two prefixes are as likely.
    """
    if any(key in names for key in state):
        return state
    found = Counter(
        key[: start + 1]
        for key in state
        for start, letter in enumerate(key)
        if letter == "." and key[start + 1 :] in names
    )
    if not found:
        return state
    (prefix, most), *others = found.most_common(2)
    if others and others[0][1] == most:
        raise ModelError(
            f"{origin} holds the network's weights twice, under {prefix!r} and {others[0][0]!r}; keep one of them"
        )
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


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
    return rows_of_bytes(values.reshape(-1)).numpy().tobytes()


def load_state(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load every weight of `network` from `state`, strictly; one of several tied weights is enough.

    Names may begin with what wrapped the network, see `without_prefix`.

    Raises ModelError that names the first missing, unexpected and misshapen ones; the network may then be
    half loaded.
    """
    state = without_prefix(state, network.state_dict().keys(), origin)
    try:
        # Not strict=True: its error lists every key, and its missing keys are all there is to say.
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        # torch's report has a heading and one line for each misshapen weight.
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ModelError(f"{origin} does not fit {type(network).__name__}: {some(lines, ' ')}") from error
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
            f"{origin} does not fit {type(network).__name__}: missing {some(missing)}; unexpected {some(unexpected)}"
        )


def some(texts: Sequence[str], joint: str = ", ", most: int = 4) -> str:
    """List the first few texts and the number of the others."""
    shown = joint.join(texts[:most]) or "none"
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")


class Heads(NamedTuple):
    """The sizes in which a checkpoint's weights differ from those of a network: its classes and its channels."""

    classes: int | None = None
    channels: int | None = None


def heads_of(state: Mapping[str, Tensor], network: nn.Module, origin: str) -> Heads:
    """Find the numbers of classes and of input channels that a state dict was trained with.

    A head is a weight or bias that differs in its first axis alone, all by the same two numbers; a stem is one
    convolution that differs in its second axis alone. Raises ModelError where weights differ in another way.
    """
    own = network.state_dict()
    held = without_prefix(state, own.keys(), origin)
    differing = {key: (tuple(value.shape), tuple(own[key].shape)) for key, value in held.items() if key in own}
    differing = {key: (theirs, ours) for key, (theirs, ours) in differing.items() if theirs != ours}
    stems = {
        key: theirs[1]
        for key, (theirs, ours) in differing.items()
        if len(theirs) == len(ours) > 2 and theirs[0] == ours[0] and theirs[2:] == ours[2:]
    }
    classes = {
        (theirs[0], ours[0])
        for key, (theirs, ours) in differing.items()
        if key not in stems and len(theirs) == len(ours) > 0 and theirs[1:] == ours[1:]
    }
    others = [key for key, (theirs, ours) in differing.items() if key not in stems and theirs[1:] != ours[1:]]
    if others or len(classes) > 1 or len(set(stems.values())) > 1:
        shown = [f"{key} {list(theirs)}, here {list(ours)}" for key, (theirs, ours) in differing.items()]
        raise ModelError(
            f"{origin} does not fit {type(network).__name__}, and neither the number of classes nor that of channels "
            f"alone makes the difference: {some(shown, '; ')}"
        )
    return Heads(next(iter(classes))[0] if classes else None, next(iter(stems.values()), None))
