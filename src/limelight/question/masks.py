"""Regions given as pictures: white where the region is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ..base.prepared import PreparedModel

if TYPE_CHECKING:
    from PIL.Image import Image


def is_picture(value: Any) -> TypeGuard[str | os.PathLike[str] | Image]:
    """Return whether a value is the path of a file or a PIL picture."""
    return isinstance(value, str | os.PathLike) or hasattr(value, "getbands")


def read_region(source: str | os.PathLike[str] | Image, model: Any = None) -> Tensor:
    """Return booleans `(H, W)`: True where the picture is lighter than half.

    An `ImageModel`, also a prepared one, resizes and crops the mask as it does a photograph, so that a mask of the
    photograph fits. Raises ImageError for a file that is no picture.
    """
    from ..models.catalogue import ImageModel  # these need Pillow, which `import limelight` leaves out
    from ..models.pictures import open_image

    named = isinstance(source, str | os.PathLike)
    picture = open_image(source, name=f"target: Region.mask={str(source)!r}" if named else None)
    network = model.module if isinstance(model, PreparedModel) and hasattr(model, "module") else model
    if isinstance(network, ImageModel):
        return network.preprocess(picture).mean(1)[0].cpu() > 0.5
    return torch.from_numpy(np.asarray(picture.image).mean(2) > 127.5)


def held(mask: Any) -> Any:
    """Return a path as a Path, and other values as they are."""
    return Path(mask) if isinstance(mask, str | os.PathLike) else mask
