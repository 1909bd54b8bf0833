"""The identity of a run as texts: its options and its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..models.catalogue import ImageModel
from ..models.weights import bytes_of, state_bytes
from .manifest import HASH_BYTES, content_hash

_PLAIN = (bool, int, float, str)


def described(value: Any) -> str:
    """Write the value as `repr` does, but arrays by their shape, type and a hash of their bytes.

    `repr` leaves out the middle of a large tensor, and digits of every tensor.
    """
    match value:
        case Tensor():
            return f"Tensor({tuple(value.shape)}, {value.dtype}, {content_hash(bytes_of(value))})"
        case np.ndarray():
            return f"ndarray({value.shape}, {value.dtype}, {content_hash(value.tobytes())})"
        case Mapping():
            return "{" + ", ".join(f"{described(key)}: {described(each)}" for key, each in value.items()) + "}"
        case tuple():
            return f"({', '.join(map(described, value))})"
        case list():
            return f"[{', '.join(map(described, value))}]"
        case nn.Module():
            return f"{type(value).__qualname__}({_module_hash(value)})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    arguments = (f"{each.name}={described(getattr(value, each.name))}" for each in fields(value) if each.init)
    return f"{type(value).__qualname__}({', '.join(arguments)})"


def model_identity(model: ImageModel) -> dict[str, str]:
    """Return the settings that identify a model: hashes of the module, its preprocessing included, and its labels."""
    labels = content_hash(json.dumps(model.labels).encode())
    return {"weights": _module_hash(model), "labels": f"{len(model.labels)} labels, {labels}"}


def _module_hash(module: nn.Module) -> str:
    """Hash a module's structure, the plain attributes of each module in it, its parameters and buffers."""
    digest = blake2b(repr(module).encode(), digest_size=HASH_BYTES)
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if key != "training" and isinstance(value, _PLAIN)}
        digest.update(f"{name} {sorted(plain.items())!r}".encode())
    for part_of_state in state_bytes(module):
        digest.update(part_of_state)
    return digest.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe each setting that differs in one line."""
    return [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
