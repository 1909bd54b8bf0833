"""Models on pixels in [0, 1]: a network or a black box, its preprocessing and its class names in one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..base.notes import Note
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

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return the network's input. Raises ValueError unless the pixels are (rows, channels, H, W)."""
        channels = self.preprocessing.channels
        if pixels.ndim != 4 or pixels.shape[1] != channels:  # one channel would broadcast to three unnoticed
            raise ValueError(
                f"pixels has shape {tuple(pixels.shape)}; {self.name} takes (rows, {channels}, H, W) in [0, 1]"
            )
        return (pixels - self.mean) / self.std

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
    pixels go in unnormalised at 224 x 224, and every map has a caution. `loaded`: whether `load_model` made it; what
    is copied and proven of it is kept as long as its weights stay, as by `limelight.prepare`.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] = (),
        name: str = "model",
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.loaded = False
        self.described(preprocessing or Preprocessing(), labels, () if preprocessing else (UNNORMALISED,))

    def described(self, preprocessing: Preprocessing, labels: Sequence[str], notes: Iterable[Note]) -> Self:
        """Replace what is known about the inputs and outputs; return the model."""
        self.preprocessing, self.labels, self.loading_notes = preprocessing, tuple(labels), tuple(notes)
        for field, values in zip(("mean", "std"), _statistics(preprocessing), strict=True):
            held = self._buffers.get(field)
            self.register_buffer(field, values if held is None else values.to(held), persistent=False)
        return self

    def forward(self, pixels: Tensor) -> Any:
        """Raises ValueError unless the pixels are (rows, channels, H, W)."""
        return self.network(self.normalised(pixels))

    def extra_repr(self) -> str:
        return f"name={self.name!r}, {len(self.labels)} labels, {self.preprocessing}"


@dataclass(frozen=True)
class ImageBlackBox(TakesPictures, BlackBox):
    """A black box on pixels: (rows, channels, H, W) in [0, 1] -> the outputs of its function.

    As an ImageModel it normalises, prepares pictures and names outputs; as a BlackBox it is for methods that need
    neither gradients nor layers. It runs on the CPU as far as torch is concerned.
    """

    preprocessing: Preprocessing = Preprocessing()
    labels: tuple[str, ...] = ()
    name: str = "model"
    loading_notes: tuple[Note, ...] = ()
    content: str = ""
    """A hash of the file that it was made of, by which runs tell models apart."""

    @staticmethod
    def of(
        box: BlackBox, preprocessing: Preprocessing | None = None, name: str = "model", content: str = ""
    ) -> ImageBlackBox:
        """Make an image model of a black box; without a `preprocessing` pixels go in unnormalised, with a caution."""
        kept = {each.name: getattr(box, each.name) for each in fields(box) if each.init}
        notes = () if preprocessing else (UNNORMALISED,)
        described: dict[str, Any] = {"preprocessing": preprocessing or Preprocessing(), "loading_notes": notes}
        return ImageBlackBox(**kept, **described, name=name, content=content)

    def described(self, preprocessing: Preprocessing, labels: Sequence[str], notes: Iterable[Note]) -> Self:
        """Return the model with other knowledge about its inputs and outputs."""
        return replace(self, preprocessing=preprocessing, labels=tuple(labels), loading_notes=tuple(notes))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]  # computed here, a buffer of an ImageModel
        return _statistics(self.preprocessing)[0]

    @property
    def std(self) -> Tensor:  # type: ignore[override]
        return _statistics(self.preprocessing)[1]

    def __call__(self, rows: Tensor) -> Tensor:
        return super().__call__(self.normalised(rows.cpu())).to(rows.device)


AnyImageModel = ImageModel | ImageBlackBox


def _statistics(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation as (channels, 1, 1)."""
    mean, std = ([float(each) for each in numbers] for numbers in (preprocessing.mean, preprocessing.std))
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
