"""Pictures given as files, folders or the word `demo`, and the loop over them."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import EXPECTED, reason
from ..base.files import finite
from ..base.version import __version__
from ..models.catalogue import demo_image
from ..models.pictures import ImageError, Picture, open_image
from .terminal import say

DEMO = "demo"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_LONGEST_STEM = 100  # bytes; file systems allow 255, and the method's name and the suffix are added


@dataclass(frozen=True)
class Item:
    """A picture to explain: its file, or None for the demonstration picture. `error`: why it can't be opened."""

    name: str
    path: Path | None = None
    error: str = ""

    def open(self) -> Picture:
        if self.error:
            raise ImageError(self.error)
        return open_image(self.path, name=self.name) if self.path else demo_image()

    def stem(self, taken: set[str]) -> str:
        """Return a name for this picture's files that is safe in shells and file systems, and add it to `taken`."""
        plain = re.sub(r"[^\w.()+@ -]", "_", Path(self.name).stem).strip(" .").lstrip("-")
        plain = plain.encode()[:_LONGEST_STEM].decode(errors="ignore") or "picture"
        found, number = plain, 2
        while found.casefold() in taken:
            found, number = f"{plain}-{number}", number + 1
        taken.add(found.casefold())
        return found


def find_pictures(arguments: Sequence[str]) -> list[Item]:
    """Return an item for each file, each picture in a folder, and `demo` unless a file has that name."""
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


def for_each_picture(
    items: Sequence[Item],
    model: str,
    work: Callable[[Item, str], tuple[Any, ...]],
    document: Callable[..., Any],
    show: Callable[..., None],
    *,
    as_json: bool,
    debug: bool,
    taken: Iterable[str] = (),
    on_failure: Callable[[str, str], None] = lambda name, line: None,
) -> int:
    """Run `work(item, stem)` on each picture, print its result, and return the number of failed pictures.

    A failed picture is reported and does not stop the others. `show` prints a result; with `as_json` the results of
    `document` are printed as one document. They are kept in a file, so that memory does not grow with their number.
    """
    stems, failed = set(taken), 0
    with tempfile.TemporaryFile("w+", encoding="ascii") as lines:
        for item in items:
            try:
                with contextlib.redirect_stdout(sys.stderr):  # a user's model may print
                    result = work(item, item.stem(stems))
            except EXPECTED as error:
                if debug:
                    raise
                failed += 1
                line = reason(error, item.name)
                say(line)
                on_failure(item.name, line)
                lines.write(_json({"picture": item.name, "status": "failed", "error": line}) + "\n")
                continue
            if as_json:
                lines.write(_json(document(*result)) + "\n")
            else:
                show(*result)
        if as_json:
            lines.seek(0)
            head = _json({"limelight": __version__, "model": model, "failed": failed})
            sys.stdout.write(head[:-1] + ', "pictures": [')
            for place, line in enumerate(lines):
                sys.stdout.write((",\n" if place else "\n") + line.rstrip("\n"))
            sys.stdout.write("\n]}\n")
    return failed


def _json(document: Any) -> str:
    return json.dumps(finite(document), ensure_ascii=True, allow_nan=False)
