"""Networks of torchvision and timm, which are imported on first use and may be missing or broken.

Nothing is downloaded: pretrained weights are used where they are in the library's cache.
"""

import importlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .pictures import Preprocessing
from .weights import ModelError


@dataclass(frozen=True)
class Blueprint:
    """A network with random weights, and the preprocessing and labels of its pretrained ones.

    `preprocessing` is None for another number of channels than theirs, whose normalisation nobody has said.
    """

    network: nn.Module
    preprocessing: Preprocessing | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """The classes, channels and (height, width) of a network where they are to be others than its pretrained one's."""

    classes: int | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None


class Library(ABC):
    """A package of networks. Every method raises ModelError where the package doesn't import."""

    name: str

    @abstractmethod
    def models(self) -> list[str]:
        """List the names of all networks."""

    @abstractmethod
    def knows(self, model: str) -> bool:
        """Whether `build` takes this name."""

    @abstractmethod
    def cached(self, model: str) -> Path | None:
        """Find the file of pretrained weights; None where it is not on this machine."""

    @abstractmethod
    def build(self, model: str, wanted: Wanted = Wanted()) -> Blueprint:
        """Build the network, with random weights.

        Raises ModelError where the library can't.
        """

    def rename(self, key: str) -> str:
        """Return the network's own name for a published checkpoint's key."""
        return key


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 class names of ImageNet-1k in the order of the outputs."""
    text = (resources.files("limelight.models") / "data" / "imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def _load_library(module: str) -> Any:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise ModelError(f"{package} is installed but doesn't import: {error}") from error
        raise ModelError(f"{package} is not installed: pip install {package}") from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A torchvision built for another torch fails with RuntimeError, and takes timm with it.
        raise ModelError(
            f"{package} is installed but doesn't import ({error}); install a build that matches torch "
            f"{torch.__version__}"
        ) from error


class Torchvision(Library):
    """torchvision's classifiers, with the preprocessing and class names of their default weights."""

    name = "torchvision"

    def models(self) -> list[str]:
        models = _load_library("torchvision.models")
        return list(models.list_models(module=models))

    def knows(self, model: str) -> bool:
        return model in self.models()

    def cached(self, model: str) -> Path | None:
        url: str = _load_library("torchvision.models").get_model_weights(model).DEFAULT.url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        return path if path.is_file() else None

    def build(self, model: str, wanted: Wanted = Wanted()) -> Blueprint:
        channels = wanted.channels
        if channels not in (None, 3):
            raise ModelError(
                f"torchvision:{model} takes 3 channels, and {channels} channel{'s' * (channels != 1)} are asked for; "
                "use timm's network, or 'package.module:factory' for one whose first convolution you replaced"
            )
        models = _load_library("torchvision.models")
        weights = models.get_model_weights(model).DEFAULT
        # As torchvision itself does for these two when it loads their weights, which came from TensorFlow.
        options: dict[str, Any] = {"transform_input": True, "init_weights": False}
        options = options if model in ("googlenet", "inception_v3") else {}
        if wanted.classes is not None:
            options["num_classes"] = wanted.classes
        network: nn.Module = models.get_model(model, weights=None, **options)
        transforms = weights.transforms()
        preprocessing = Preprocessing(
            size=transforms.crop_size[0],
            crop_fraction=transforms.crop_size[0] / transforms.resize_size[0],
            interpolation=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )
        return Blueprint(network, preprocessing, () if wanted.classes else tuple(weights.meta["categories"]))

    def rename(self, key: str) -> str:
        """Rename the keys of published DenseNets, whose modules' names have dots."""
        return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


class Timm(Library):
    """timm's networks, with the preprocessing of their pretrained configuration; `.a1_in1k` and such work."""

    name = "timm"

    def models(self) -> list[str]:
        return list(_load_library("timm").list_models())

    def knows(self, model: str) -> bool:
        timm = _load_library("timm")
        return bool(model in timm.list_pretrained() if "." in model else timm.is_model(model))

    def cached(self, model: str) -> Path | None:
        configuration = _load_library("timm").get_pretrained_cfg(model)
        if configuration is None or not configuration.hf_hub_id:
            return None
        found = _load_library("huggingface_hub").try_to_load_from_cache(
            configuration.hf_hub_id, configuration.hf_hub_filename or "model.safetensors"
        )
        return Path(found) if isinstance(found, str) else None

    def build(self, model: str, wanted: Wanted = Wanted()) -> Blueprint:
        timm = _load_library("timm")
        options: dict[str, Any] = {"num_classes": wanted.classes, "in_chans": wanted.channels}
        published = timm.get_pretrained_cfg(model)
        is_fixed = published is not None and published.fixed_input_size
        if wanted.size is not None and is_fixed and wanted.size != tuple(published.input_size[1:]):
            options["img_size"] = wanted.size
        given = {name: value for name, value in options.items() if value is not None}
        network: nn.Module = timm.create_model(model, pretrained=False, **given)
        configuration: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        is_imagenet = configuration["num_classes"] == 1000 and "in1k" in (configuration.get("tag") or "")
        preprocessing = timm_preprocessing(configuration, f"timm:{model}")
        known = preprocessing if wanted.channels in (None, preprocessing.channels) else None
        return Blueprint(network, known, imagenet_labels() if is_imagenet and not wanted.classes else ())


def timm_preprocessing(configuration: Mapping[str, Any], name: str) -> Preprocessing:
    """Read the preprocessing of a timm network's `pretrained_cfg`, whatever its channels and proportions.

    Raises ModelError for one that pads pictures.
    """
    channels, height, width = configuration["input_size"]
    mode, crop = configuration.get("crop_mode") or "center", configuration.get("crop_pct") or 0.875
    if mode not in ("center", "squash") or crop > 1:
        raise ModelError(
            f"{name} takes {channels} x {height} x {width} inputs prepared by crop_mode={mode!r}, crop_pct={crop}; "
            "limelight crops and never pads: wrap the network yourself and pass tensors"
        )
    mean, std = (tuple(float(each) for each in configuration[field]) for field in ("mean", "std"))
    return Preprocessing(
        size=height if height == width else (height, width),
        crop_fraction=_crop_fraction(height, width, crop),
        interpolation=configuration.get("interpolation") or "bicubic",
        mean=mean * channels if len(mean) == 1 else mean,
        std=std * channels if len(std) == 1 else std,
        squash=mode == "squash",
    )


def _crop_fraction(height: int, width: int, crop: float) -> float:
    """Return the fraction by which both sides are rounded to what timm rounds them down to, as far as one can be."""
    down, across = math.floor(height / crop), math.floor(width / crop)
    if height == width or crop == 1:
        return height / down
    least = max((down - 0.5) / height, (across - 0.5) / width)
    most = min((down + 0.5) / height, (across + 0.5) / width)
    return min(1.0, 2 / (least + most))


def timm_configuration(network: nn.Module) -> Mapping[str, Any] | None:
    """Return the configuration that timm puts on its networks; None for other networks."""
    for field in ("pretrained_cfg", "default_cfg"):
        found = getattr(network, field, None)
        if isinstance(found, Mapping) and {"input_size", "mean", "std"} <= found.keys():
            return found
    return None


def timm_labels(network: nn.Module, configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of a timm network that still has the classes of its pretrained weights."""
    classes = getattr(network, "num_classes", None)
    named = tuple(configuration.get("label_names") or ())
    if classes == 1000 and not named and "in1k" in (configuration.get("tag") or ""):
        named = imagenet_labels()
    return named if classes == len(named) else ()


def channels_of(network: nn.Module) -> int | None:
    """Return the number of channels that the first convolution takes; None where there is none."""
    found = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    return None if found is None else found.in_channels


LIBRARIES = (Torchvision(), Timm())
