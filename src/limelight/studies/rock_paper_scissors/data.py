"""The photographs: three folders of hands, split so that no picture is in two parts."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from ...models.catalogue import HANDS_PREPROCESSING
from ...models.pictures import ImageError, Picture, open_image, prepare
from ...models.rock_paper_scissors import CLASSES

SUFFIXES = (".png", ".jpg", ".jpeg")
PARTS = {"training": 0.7, "validation": 0.2, "test": 0.1}
KAGGLE = "https://www.kaggle.com/datasets/drgfreeman/rockpaperscissors"


class DataError(ValueError):
    """Photographs are missing or can't be used; the message says what is expected and where to get it."""


@dataclass(frozen=True)
class Part:
    """Photographs as bytes `x` (n, 3, 150, 150), their classes `y` (n,), and their files."""

    x: Tensor
    y: Tensor
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen photographs as numbers in [0, 1]."""
        return self.x[rows].float() / 255


def read_parts(folder: str | Path) -> dict[str, Part]:
    """Read every photograph below `folder`/rock, paper and scissors into training, validation and test.

    A hash of a picture's decoded pixels, as a number in [0, 1), decides its part: below 0.7 training, below 0.9
    validation, else test. So copies of a picture stay together, whatever their name, format or folder, and a picture
    keeps its part when others are added or removed.

    Raises DataError where a folder is missing, a part is empty, or a picture can't be read.
    """
    found: dict[str, list[tuple[Path, int, Tensor]]] = {part: [] for part in PARTS}
    for label, paths in enumerate(class_files(folder)):
        for path in paths:
            try:
                picture = open_image(path)
            except ImageError as error:
                raise DataError(f"data: {error}") from error
            pixels = prepare(picture, HANDS_PREPROCESSING)[0]
            found[part_of(picture)].append((path, label, (pixels[0] * 255).round().byte()))
    parts = {}
    for part, examples in found.items():
        if not examples:
            raise DataError(f"data: {str(folder)!r} has too few photographs: none falls into the {part} part")
        files, labels, pictures = zip(*examples, strict=True)
        parts[part] = Part(torch.stack(pictures), torch.tensor(labels), files)
    return parts


def class_files(folder: str | Path) -> list[list[Path]]:
    """List the files of each of CLASSES in order of name. Raises DataError that says how to get them."""
    root = Path(folder)
    expected = f"a folder with {', '.join(CLASSES)} inside, as in {KAGGLE}: download it there, unpack it, pass --data"
    missing = [name for name in CLASSES if not (root / name).is_dir()]
    if missing:
        lacks = f"has no folder {' or '.join(missing)}" if root.is_dir() else "does not exist"
        raise DataError(f"data: {str(root)!r} {lacks}; expected {expected}")
    files = [sorted(p for p in (root / name).iterdir() if p.suffix.lower() in SUFFIXES) for name in CLASSES]
    for name, paths in zip(CLASSES, files, strict=True):
        if not paths:
            raise DataError(f"data: {str(root / name)!r} holds no {', '.join(SUFFIXES)}; expected {expected}")
    return files


def part_of(picture: Picture) -> str:
    """Return the part that a picture belongs to, which depends on its pixels alone."""
    content = blake2b(repr(picture.image.size).encode() + picture.image.tobytes(), digest_size=8).digest()
    position = int.from_bytes(content) / 2**64
    training, validation = PARTS["training"], PARTS["training"] + PARTS["validation"]
    return "training" if position < training else "validation" if position < validation else "test"
