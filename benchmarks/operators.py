"""torchvision beside a torch that it was not built for: its networks run, once two operators are declared."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

_kept: list[torch.library.Library] = []  # a library's operators go away with it


def torchvision() -> Any:
    """torchvision, after declaring `nms` and `qnms` where its own compiled operators do not load."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        return importlib.import_module("torchvision")
