"""Models on pixels in [0, 1]: a network or a black box, its preprocessing and its class names in one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base.notes import Note
from ..base.types import Outputs
from .black_box import BlackBox
from .pictures import GREY_REPEATED, Geometry, ImageSource, Picture, Preprocessing, open_image, prepare

UNNORMALISED = Note(
    "caution",
    "pixels in [0, 1] go in unnormalised, since nothing says what the model was trained on: give mean= and std= "
    "(--mean, --std), or wrap it as ImageModel(network, Preprocessing(...))",
)


class TakesPictures:
    """What models on pixels share: the way from a picture to the input, and from an output to its name.

    `loading_notes`: what a reader of every map should know about how the model was loaded.
    """

    preprocessing: Preprocessing
    labels: tuple[str, ...]
    name: str
    loading_notes: tuple[Note, ...]
    mean: Tensor
    std: Tensor

    def prepare(self, image: ImageSource | Picture) -> tuple[Tensor, Geometry, Picture]:
        """Return the input (1, channels, H, W) in [0, 1] on the model's device and dtype, its geometry and the picture.

        Raises ImageError for a picture that can't be used.
        """
        picture = image if isinstance(image, Picture) else open_image(image)
        pixels, geometry = prepare(picture, self.preprocessing)
        if self.preprocessing.channels == 1:
            was_grey = GREY_REPEATED in picture.notes
            notes = tuple(note for note in picture.notes if note != GREY_REPEATED)
            picture = replace(picture, notes=notes if was_grey else (*notes, "colour reduced to grey"))
        return pixels.to(self.mean), geometry, picture

    def preprocess(self, image: ImageSource | Picture) -> Tensor:
        """Return the input alone, see `prepare`."""
        return self.prepare(image)[0]

    def label(self, index: int) -> str:
        """Return the name of an output, "class 7" where it has none. Raises ValueError for a negative index."""
        if index < 0:
            raise ValueError(f"index is {index}; outputs are counted from 0")
        return self.labels[index] if index < len(self.labels) else f"class {index}"


class ImageModel(TakesPictures, nn.Module):
    """A network on pixels: (rows, channels, H, W) in [0, 1] -> the network's outputs.

    Normalising happens inside `forward`, so that baselines and maps are in pixel space. The buffers `mean` and `std`
    follow `.to()` but aren't in the state dict, which holds the network's weights alone. Without a `preprocessing`
    pixels go in unnormalised at 224 x 224, and every map has a caution. `outputs`: what the network's outputs are, see
    the option of that name. `loaded`: whether `load_model` made it; what
    is copied and proven of it is kept as long as its weights stay, as by `limelight.prepare`.
    """

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
        self.name = name
        self.outputs = outputs
        self.loaded = False
        self.described(preprocessing or Preprocessing(), labels, () if preprocessing else (UNNORMALISED,))

    def described(self, preprocessing: Preprocessing, labels: Sequence[str], notes: Iterable[Note]) -> Self:
        """Replace what is known about the inputs and outputs; return the model."""
        self.preprocessing, self.labels, self.loading_notes = preprocessing, tuple(labels), tuple(notes)
        for field, values in zip(("mean", "std"), statistics(preprocessing), strict=True):
            held = self._buffers.get(field)
            self.register_buffer(field, values if held is None else values.to(held), persistent=False)
        return self

    def forward(self, pixels: Tensor) -> Any:
        """Raises ValueError unless the pixels are (rows, channels, H, W)."""
        require_channels(pixels.shape, self.preprocessing.channels, self.name)
        return self.network((pixels - self.mean) / self.std)

    def extra_repr(self) -> str:
        return f"name={self.name!r}, {len(self.labels)} labels, {self.preprocessing}"


@dataclass(frozen=True)
class Normalising:
    """The function of an ImageBlackBox: pixels in [0, 1], channels first, normalised and given to a black box."""

    box: BlackBox
    preprocessing: Preprocessing

    def __call__(self, pixels: NDArray[Any]) -> NDArray[Any]:
        mean, std = statistics(self.preprocessing)
        require_channels(pixels.shape, len(mean), "the model")
        rows = torch.from_numpy(pixels)
        found: NDArray[Any] = self.box((rows - mean.to(rows)) / std.to(rows)).numpy()
        return found


@dataclass(frozen=True)
class ImageBlackBox(TakesPictures, BlackBox):
    """A black box on pixels: (rows, channels, H, W) in [0, 1] -> the outputs of `box`, which gets them normalised.

    As an ImageModel it prepares pictures and names outputs; as a BlackBox it is for methods that need neither gradients
    nor layers. `content` is a hash of the file that it was made of, by which runs tell models apart.
    """

    box: BlackBox | None = None
    preprocessing: Preprocessing = Preprocessing()
    labels: tuple[str, ...] = ()
    name: str = "model"
    loading_notes: tuple[Note, ...] = ()
    content: str = ""

    @staticmethod
    def of(
        box: BlackBox, preprocessing: Preprocessing | None = None, name: str = "model", content: str = ""
    ) -> ImageBlackBox:
        """Make an image model of a black box; without a `preprocessing` pixels go in unnormalised, with a caution."""
        inputs = preprocessing or Preprocessing()
        notes = (*getattr(box, "notes", ()), *(() if preprocessing else (UNNORMALISED,)))
        function = Normalising(box, inputs)
        return ImageBlackBox(function, box=box, preprocessing=inputs, name=name, loading_notes=notes, content=content)

    def described(self, preprocessing: Preprocessing, labels: Sequence[str], notes: Iterable[Note]) -> Self:
        """Return the model with other knowledge about its inputs and outputs."""
        assert self.box is not None
        function = Normalising(self.box, preprocessing)
        return replace(
            self, function=function, preprocessing=preprocessing, labels=tuple(labels), loading_notes=tuple(notes)
        )

    @property
    def mean(self) -> Tensor:  # type: ignore[override]  # computed here, a buffer of an ImageModel
        return statistics(self.preprocessing)[0]

    @property
    def std(self) -> Tensor:  # type: ignore[override]  # as the mean
        return statistics(self.preprocessing)[1]


AnyImageModel = ImageModel | ImageBlackBox


def require_channels(shape: Sequence[int], channels: int, name: str) -> None:
    """Raise ValueError unless the shape is (rows, channels, H, W)."""
    if len(shape) != 4 or shape[1] != channels:  # one channel would broadcast to three unnoticed
        raise ValueError(f"pixels has shape {tuple(shape)}; {name} takes (rows, {channels}, H, W) in [0, 1]")


def statistics(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation as (channels, 1, 1)."""
    mean, std = ([float(each) for each in numbers] for numbers in (preprocessing.mean, preprocessing.std))
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
