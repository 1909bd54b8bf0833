"""Pictures by what a person types: files, folders, the word `demo`; and names for the files made from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.catalogue import demo_image
from ..models.pictures import ImageError, Picture, open_image

DEMO = "demo"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_LONGEST_STEM = 100  # bytes; the names of methods and suffixes come on top, and file systems stop at 255


@dataclass(frozen=True)
class Item:
    """A picture to explain: its file, or None for the demonstration picture; or why there is none."""

    name: str
    path: Path | None = None
    error: str = ""

    def open(self) -> Picture:
        if self.error:
            raise ImageError(self.error)
        return open_image(self.path, name=self.name) if self.path else demo_image()

    def stem(self, taken: set[str]) -> str:
        """A name for this picture's files, without what a shell or file system trips over; adds it to `taken`."""
        plain = re.sub(r"[^\w.()+@ -]", "_", Path(self.name).stem).strip(" .").lstrip("-")
        plain = plain.encode()[:_LONGEST_STEM].decode(errors="ignore") or "picture"
        found, number = plain, 2
        while found.casefold() in taken:
            found, number = f"{plain}-{number}", number + 1
        taken.add(found.casefold())
        return found


def find_pictures(arguments: Sequence[str]) -> list[Item]:
    """An item for each file; for each picture in a folder; and for `demo`, unless a file is called that."""
    return [item for argument in arguments for item in _find(argument)]


def _find(argument: str) -> list[Item]:
    path = Path(argument)
    try:
        if argument == DEMO and not path.exists():
            return [Item(DEMO)]
        if not path.is_dir():
            return [Item(argument, path)]
        inside = sorted(each for each in path.iterdir() if _is_picture(each))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return [Item(argument, path, f"{argument}: {error}")]
    nothing = f"{argument}: a folder without pictures ({', '.join(SUFFIXES)})"
    return [Item(str(each), each) for each in inside] or [Item(argument, path, nothing)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
