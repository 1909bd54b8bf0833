"""Digests inside files: the SHA-256 of all bytes of a file, with zeros where the digest itself stands.

A digest shows that a file is not as it was written: a bit that flipped, an end that is missing, another file's content.
It is no signature: whoever changes a file on purpose can write a digest that fits.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple

from .errors import DamagedFile

BLANK = "0" * 64
"""Stands for the digest where it is written, and where it is computed."""
DIGEST = "digest"  # the first name in sealed JSON
_START = re.compile(rb'\{\s*"([^"]*)": "([0-9a-f]{64})"')  # of any name, since a bit may flip there too
_CHUNK = 1 << 20


def digest_of(file: IO[bytes], place: int) -> str:
    """Return the digest of an open file whose own digest is the 64 bytes at `place`."""
    file.seek(0)
    found = hashlib.sha256(file.read(place))
    found.update(BLANK.encode())
    file.seek(place + len(BLANK))
    while chunk := file.read(_CHUNK):
        found.update(chunk)
    return found.hexdigest()


def sealed(content: bytes, place: int) -> bytes:
    """Return the content with its digest in place of BLANK."""
    assert content[place : place + len(BLANK)] == BLANK.encode()
    digest = digest_of(io.BytesIO(content), place).encode()
    return b"".join((memoryview(content)[:place], digest, memoryview(content)[place + len(BLANK) :]))


def require_digest(path: Path, place: int) -> None:
    """Raise DamagedFile where the digest at `place` is not that of the file."""
    with path.open("rb") as file:
        file.seek(place)
        written = file.read(len(BLANK))
        if digest_of(file, place).encode() != written:
            raise DamagedFile(path, "its digest is not that of its content")


def sealed_json(document: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return a JSON document with its digest under the first name, `digest`."""
    content = (json.dumps({DIGEST: BLANK, **document}, indent=indent) + "\n").encode()
    return sealed(content, content.index(BLANK.encode()))


class SealedJson(NamedTuple):
    """A JSON document without its digest, and whether it had one."""

    document: dict[str, Any]
    is_sealed: bool


def read_sealed_json(path: Path) -> SealedJson:
    """Read a file of `sealed_json`, or a JSON document without a digest, which older versions wrote.

    Raises FileNotFoundError, and DamagedFile where it is no JSON or the digest is not that of the content.
    """
    return parse_sealed_json(path.read_bytes(), path)


def parse_sealed_json(content: bytes, path: PurePath) -> SealedJson:
    """Parse the content of a file as `read_sealed_json` does; `path` is named in errors."""
    found = _START.match(content)
    if found and digest_of(io.BytesIO(content), found.start(2)).encode() != found[2]:
        raise DamagedFile(path, "its digest is not that of its content")
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DamagedFile(path, f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or (DIGEST in document) != bool(found):
        raise DamagedFile(path, "it is no sealed document")
    document.pop(DIGEST, None)
    return SealedJson(document, bool(found))
