"""Pictures given as files, folders, patterns, standard input or the word `demo`, and the loop over them."""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import EXPECTED, reason
from ..base.files import finite
from ..base.version import __version__
from ..models.catalogue import TWO_CLASSES, demo_image
from ..models.pictures import SUFFIXES, ImageError, Picture, is_url, open_image
from .terminal import say

DEMO = "demo"
STANDARD_INPUT = "-"
_MOST_NAMED = 5  # files that were left out
_LONGEST_STEM = 100  # bytes; file systems allow 255, and the method's name and the suffix are added


@dataclass(frozen=True)
class Item:
    """A picture to explain: its file or its bytes, or None for the demonstration picture.

    `inside` is the file's path below the folder that was given. `error`: why it can't be opened. `white`: see
    `open_image`.
    """

    name: str
    source: Path | bytes | None = None
    error: str = ""
    inside: str = ""
    white: float | None = None

    def open(self) -> Picture:
        if self.error:
            raise ImageError(self.error)
        if self.source is None:
            return demo_image(TWO_CLASSES)
        return open_image(self.source, name=self.name, white=self.white)

    @property
    def is_demo(self) -> bool:
        return self.source is None and not self.error

    def stem(self, taken: set[str]) -> str:
        """Return a name for this picture's files that is safe in shells and file systems, and add it to `taken`.

        Subfolders are a part of it: `cats-1` for `cats/1.png`.
        """
        path = Path(self.inside or Path(self.name).name)
        whole = "-".join((*path.parent.parts, path.stem))
        plain = re.sub(r"[^\w.()+@ -]", "_", whole).strip(" .").lstrip("-")
        plain = plain.encode()[:_LONGEST_STEM].decode(errors="ignore") or "picture"
        found, number = plain, 2
        while found.casefold() in taken:
            found, number = f"{plain}-{number}", number + 1
        taken.add(found.casefold())
        return found


def find_pictures(arguments: Sequence[str], white: float | None = None) -> list[Item]:
    """Return an item for each file, each picture in a folder and its subfolders, and each that fits a pattern.

    A pattern is one such as `photos/*.jpg` that is no file's name, `-` is standard input, and `demo` the demonstration
    picture unless a file has that name. Files that are left out are counted and named on standard error.
    """
    return [replace(item, white=white) for argument in arguments for item in _find(argument)]


def _find(argument: str) -> list[Item]:
    path = Path(argument)
    try:
        if argument == STANDARD_INPUT:
            return [Item("standard input", sys.stdin.buffer.read())]
        if is_url(argument):
            open_image(argument)  # says why not
        if argument == DEMO and not path.exists():
            return [Item(DEMO)]
        if path.is_dir():
            return _chosen(argument, path, _files_below(path))
        if glob.has_magic(argument) and not path.exists():
            fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
            fitting = sorted(map(Path, glob.glob(argument, recursive=True)))
            files = [file for each in fitting for file in (_files_below(each) if each.is_dir() else [each])]
            return _chosen(argument, Path(*fixed), list(dict.fromkeys(files)))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        known = isinstance(error, ImageError)
        return [Item(argument, path, str(error) if known else f"{argument}: {error}")]
    return [Item(argument, path)]


def _files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, in order, but not hidden ones; links to folders as they are."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [each for each in folders if not each.startswith(".")]
        links = [each for each in folders if Path(place, each).is_symlink()]
        found += [Path(place, each) for each in (*files, *links) if not each.startswith(".")]
    return sorted(found)


def _chosen(argument: str, root: Path, files: Sequence[Path]) -> list[Item]:
    """Return the pictures among the files, and say which files are left out."""
    pictures = [each for each in files if each.suffix.lower() in SUFFIXES and each.is_file()]
    kept = set(pictures)
    others = [str(each.relative_to(root)) for each in files if each not in kept]
    if others:
        named = ", ".join(others[:_MOST_NAMED]) + (", ..." if len(others) > _MOST_NAMED else "")
        say(f"{argument}: left out {len(others)} of {len(files)} files, which are no pictures by their names: {named}")
    if not pictures:
        what = "a folder without pictures" if root.is_dir() and str(root) == str(Path(argument)) else "fits no picture"
        return [Item(argument, Path(argument), f"{argument}: {what} ({', '.join(SUFFIXES)})")]
    return [Item(str(each), each, inside=str(each.relative_to(root))) for each in pictures]


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
