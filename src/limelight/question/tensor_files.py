"""Tensors in files: a text embedding or a region that a target names by its file. Numbers alone are read."""

from __future__ import annotations

import os
import pickle
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..base.contexts import setting
from ..base.devices import CPU

_allowed: ContextVar[bool] = ContextVar("allowed", default=True)


def without_files() -> AbstractContextManager[None]:
    """Refuse files inside: what comes from a page must not name one on this machine."""
    return setting(_allowed, False)


SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")


def names_a_tensor(value: Any) -> bool:
    """Return whether a value is the path of a file that holds a tensor, by its suffix."""
    return isinstance(value, str | os.PathLike) and Path(value).suffix.lower() in SUFFIXES


def read_tensor(file: str) -> Tensor:
    """Read the only tensor of a .npy, .pt, .pth or .safetensors file, on the CPU.

    Raises ValueError that names the file for what holds more than numbers, or several tensors.
    """
    if not _allowed.get():
        raise ValueError(f"{file!r}: no file is read here; give the values themselves, in Python or by a command")
    path = Path(file)
    try:
        match path.suffix.lower():
            case ".npy":
                found: Any = torch.from_numpy(np.load(path, allow_pickle=False))
            case ".pt" | ".pth":
                found = torch.load(path, map_location=CPU, weights_only=True)
            case ".safetensors":
                found = load_file(path)
            case suffix:
                raise ValueError(f"{file!r}: suffix {suffix!r}; use .npy, .pt, .pth or .safetensors")
    except FileNotFoundError as error:
        raise ValueError(f"{file!r}: no such file") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file!r} holds more than a tensor, and limelight never unpickles code") from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file!r}: damaged, or no file of a tensor: {error}") from error
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{file!r} holds objects, and limelight never unpickles code") from error
        raise
    if isinstance(found, dict) and len(found) == 1:
        found = next(iter(found.values()))
    if not isinstance(found, Tensor):
        names = f" named {sorted(found)}" if isinstance(found, dict) else ""
        raise ValueError(f"{file!r} holds a {type(found).__name__}{names}; save one tensor alone")
    return found
