"""Networks of torchvision and timm, which are imported on first use and may be missing or broken.

Nothing is downloaded: pretrained weights are used where they are in the library's cache.
"""

import importlib
import math
import re
from abc import ABC, abstractmethod
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
    """A network with random weights, and the preprocessing and labels of its pretrained ones."""

    network: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]


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
    def build(self, model: str) -> Blueprint:
        """Build the network, with random weights."""

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

    def build(self, model: str) -> Blueprint:
        models = _load_library("torchvision.models")
        weights = models.get_model_weights(model).DEFAULT
        # As torchvision itself does for these two when it loads their weights, which came from TensorFlow.
        options = {"transform_input": True, "init_weights": False} if model in ("googlenet", "inception_v3") else {}
        network: nn.Module = models.get_model(model, weights=None, **options)
        transforms = weights.transforms()
        preprocessing = Preprocessing(
            size=transforms.crop_size[0],
            crop_fraction=transforms.crop_size[0] / transforms.resize_size[0],
            interpolation=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )
        return Blueprint(network, preprocessing, tuple(weights.meta["categories"]))

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

    def build(self, model: str) -> Blueprint:
        network: nn.Module = _load_library("timm").create_model(model, pretrained=False)
        configuration: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        channels, height, width = configuration["input_size"]
        mode, crop = configuration["crop_mode"], configuration["crop_pct"]
        if mode not in ("center", "squash") or channels != 3 or height != width or crop > 1:
            raise ModelError(
                f"timm:{model} takes {channels} x {height} x {width} inputs prepared by crop_mode={mode!r}, "
                f"crop_pct={crop}; limelight prepares square RGB crops: wrap the network yourself and pass tensors"
            )
        preprocessing = Preprocessing(
            size=height,
            crop_fraction=height / math.floor(height / crop),  # timm rounds the shorter side down
            interpolation=configuration["interpolation"],
            mean=tuple(configuration["mean"]),
            std=tuple(configuration["std"]),
            squash=mode == "squash",
        )
        is_imagenet = configuration["num_classes"] == 1000 and "in1k" in (configuration.get("tag") or "")
        return Blueprint(network, preprocessing, imagenet_labels() if is_imagenet else ())


LIBRARIES = (Torchvision(), Timm())
