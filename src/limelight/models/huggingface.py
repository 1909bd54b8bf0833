"""Folders that transformers' `save_pretrained` wrote: the network, its preprocessing and its labels (extra `hf`).

Nothing is downloaded and no code of the folder is run.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..base.notes import Note
from .image_model import ImageModel, statistics
from .pictures import Preprocessing, open_image, prepare
from .weights import ModelError, reading, some

CONFIG, PROCESSOR, PROCESSORS = "config.json", "preprocessor_config.json", "processor_config.json"
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class ImageEmbeddings(nn.Module):
    """The image half of a model of images and texts: pixels -> embeddings (rows, dimensions), in the texts' space."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.model.get_image_features(pixel_values=pixels)  # type: ignore[operator]  # nn.Module has it for a tensor
        embeddings: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return embeddings


def load_folder(folder: Path) -> ImageModel:
    """Load the image model of a `save_pretrained` folder. Raises ModelError for what is none."""
    network, _ = load_network(folder)
    return image_model_of(network, str(folder), folder)


def load_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network of a `save_pretrained` folder, with its configuration. Raises ModelError for what is none."""
    configuration = _json(folder / CONFIG)
    if configuration is None:
        raise ModelError(f"{folder}: a folder without {CONFIG}; use one that transformers' save_pretrained wrote")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"{folder}: its network needs transformers: pip install 'limelight[hf]' ({error})") from error
    names = configuration.get("architectures") or ["AutoModelForImageClassification"]
    kind = getattr(transformers, names[0], None)
    if kind is None:
        raise ModelError(
            f"{folder}: transformers {transformers.__version__} has no network {names[0]!r}, and code that comes with "
            "a folder is not run; load it yourself in 'package.module:factory'"
        )
    with reading(folder, "model"):
        # In float32: on the CPU half precision is slow, and pixels come in float32.
        made, found = kind.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(f"{folder}: its weights lack {some(missing)}, which transformers would draw at random")
    return made, configuration


def is_transformers_model(network: nn.Module) -> bool:
    """Whether it is a network of transformers, which has a configuration."""
    return any(each.__module__.startswith("transformers.") for each in type(network).__mro__) and hasattr(
        network, "config"
    )


def image_model_of(network: nn.Module, name: str, folder: Path | None = None) -> ImageModel:
    """Make an ImageModel of a network of transformers, with its labels and the preprocessing of its folder.

    `folder` None is the one that it was loaded from. A caution says where the folder's own processor prepares a
    picture otherwise than limelight does. Where there is none, the size and channels are those of the network's
    configuration, and pixels go in unnormalised with a caution.
    """
    configuration: dict[str, Any] = network.config.to_dict()  # type: ignore[union-attr, operator]  # nn.Module has it for a tensor
    origin = folder or Path(getattr(network.config, "name_or_path", "") or "/nowhere")
    processor = _processor(origin)
    labels = _labels(configuration)
    if hasattr(network, "get_image_features"):
        network, labels = ImageEmbeddings(network), ()
    vision = configuration.get("vision_config") or configuration
    size, channels = vision.get("image_size"), vision.get("num_channels") or 3
    if processor is None:
        found = ImageModel(network, labels=labels, name=name)
        none = Preprocessing(_sides(size) or 224, mean=(0.0,) * channels, std=(1.0,) * channels)
        return found.described(none, labels, found.loading_notes)
    preprocessing = read_preprocessing(processor, size, channels, name)
    notes = _unlike_the_folders(preprocessing, origin) if preprocessing.channels == 3 else ()
    return ImageModel(network, preprocessing, labels, name).described(preprocessing, labels, notes)


def _unlike_the_folders(preprocessing: Preprocessing, folder: Path) -> tuple[Note, ...]:
    """Prepare a picture both ways and return a caution where they differ: processors do more than their settings say.

    Smooth, so that filters hardly matter, and with other colours on each side, so that exchanged ones do.
    """
    down, across = np.mgrid[0:1:240j, 0:1:320j]
    pixels = np.stack([255 * across, 255 * down, 128 * (1 - across) + 40], -1).astype(np.uint8)
    try:
        processor = importlib.import_module("transformers").AutoImageProcessor.from_pretrained(
            str(folder), local_files_only=True
        )
        theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    except (ImportError, RuntimeError, OSError, ValueError, TypeError) as error:
        first = str(error).strip().partition("\n")[0]
        return (Note("fact", f"the preprocessing was not compared with the folder's own, which does not run: {first}"),)
    mean, std = statistics(preprocessing)
    mine = (prepare(open_image(pixels), preprocessing)[0] - mean) / std
    name = type(processor).__name__
    if mine.shape != theirs.shape:
        what = f"to {tuple(theirs.shape[2:])} and not {tuple(mine.shape[2:])}"
    elif (difference := float((mine - theirs).abs().max())) > 0.05 * float(mine.max() - mine.min()):
        what = f"otherwise, by up to {difference:.2g}"
    else:
        return ()
    return (Note("caution", f"the folder's own {name} prepares pictures {what}: give size=, resize=, mean= and std="),)


def _processor(folder: Path) -> dict[str, Any] | None:
    """Read the settings of the folder's image processor, which may stand among those of a processor of texts too."""
    nested = _json(folder / PROCESSORS) or {}
    return _json(folder / PROCESSOR) or nested.get("image_processor")


def _json(path: Path) -> dict[str, Any] | None:
    """Read a file of JSON, None where there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    return found


def _labels(configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes; none where they are placeholders, "LABEL_0"."""
    named = configuration.get("id2label") or {}
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    return () if all(label == f"LABEL_{place}" for place, label in enumerate(labels)) else labels


def _sides(size: Any) -> tuple[int, int] | int | None:
    """Read a size: a number, (height, width), or a mapping of these names."""
    match size:
        case {"height": int(height), "width": int(width)}:
            return height if height == width else (height, width)
        case {"shortest_edge": int(side)} | int(side):
            return side
        case [int(height), int(width)]:
            return height if height == width else (height, width)
    return None


def read_preprocessing(processor: Mapping[str, Any], image_size: Any, channels: int, name: str) -> Preprocessing:
    """Read a `preprocessor_config.json`. Raises ModelError for a resampling that Pillow's four filters do not have."""
    resample = processor.get("resample", 2)
    if resample not in _FILTERS:
        raise ModelError(f"{name}: {PROCESSOR} has resample={resample}; limelight has {_FILTERS}")
    asked = processor.get("size")
    size = _sides(asked) or _sides(image_size) or 224
    fraction, squash = 1.0, not (isinstance(asked, Mapping) and "shortest_edge" in asked)
    cropped = _sides(processor.get("crop_size")) if processor.get("do_center_crop") else None
    share = processor.get("crop_pct")
    if cropped is not None:
        fraction = min(_both(cropped)) / min(_both(size))
        size = cropped
    elif isinstance(share, float) and isinstance(size, int):  # ConvNeXt's: large pictures are not cropped
        fraction, squash = (share, False) if size < 384 else (1.0, True)
    mean, std = _normalisation(processor, channels)
    return Preprocessing(size, min(1.0, fraction), _FILTERS[resample], mean, std, squash)


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _normalisation(processor: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of pixels in [0, 1], with the processor's own scaling of bytes folded in."""
    factor = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255.0
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = [0.0] * channels, [1.0] * channels
    if processor.get("do_normalize", True):
        mean = [float(each) for each in processor.get("image_mean") or mean]
        std = [float(each) for each in processor.get("image_std") or std]
    again = [each if processor.get("include_top") else 1.0 for each in std]  # EfficientNet's, which divides twice
    # ((factor * pixel - offset - mean) / std) / again
    scales = [first * second / factor for first, second in zip(std, again, strict=True)]
    return tuple((each + offset) / factor for each in mean), tuple(scales)
