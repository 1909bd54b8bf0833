"""Files of values: tensors in safetensors, all other values as JSON inside and beside it. No code is run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import DamagedFile
from .files import write_whole
from .named import Named, registered
from .notes import Kind, Note, Place
from .seals import BLANK, DIGEST, require_digest, sealed
from .text import Text

RECORD = "limelight"  # the metadata key of the JSON record
FORMAT = 3
"""3 has a digest inside. 2 has none; 1 has none, and notes that are plain sentences."""
_DIGEST = re.compile(rb'\\"digest\\": \\"([0-9a-f]{64})\\"')  # in the record, which is text inside the JSON header
RENAMED: dict[str, str] = {}
"""Old names of renamed classes and their present names, so that old files stay readable."""


def write(path: Path, fields: Mapping[str, Any]) -> Path:
    """Write `fields` to `path` (`.safetensors`), and all but the tensors also to a `.json` file beside it."""
    whole, record = _encoded(fields)
    write_whole(path, whole)
    write_whole(path.with_suffix(".json"), (record + "\n").encode())
    return path


def file_stem(label: str) -> str:
    """Return a label as a file name without suffix: at most 80 characters that paths may contain."""
    return re.sub(r"[^\w.,=()-]+", " ", label).strip()[:80].strip()


def as_bytes(fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of the `.safetensors` file that `write` would write."""
    return _encoded(fields)[0]


def _encoded(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of the file, and the record inside it. The record's digest is that of the file."""
    tensors: dict[str, Tensor] = {}
    encoded = {name: encode(value, name, tensors) for name, value in fields.items()}
    record = json.dumps({"format": FORMAT, DIGEST: BLANK, **encoded}, indent=1)
    blank = save(tensors, metadata={RECORD: record})
    place = _place_of_digest(blank)
    assert place is not None
    whole = sealed(blank, place)
    return whole, record.replace(BLANK, whole[place : place + len(BLANK)].decode(), 1)


def _place_of_digest(start: bytes) -> int | None:
    """Find the digest in the first bytes of a file, its JSON header included; None where there is none."""
    found = _DIGEST.search(start, 8, 8 + int.from_bytes(start[:8], "little"))
    return found.start(1) if found else None


def has_digest(path: Path) -> bool:
    """Whether a `.safetensors` file has a digest inside; a file of an older version has none.

    Raises DamagedFile where the digest is not that of the file.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        file.seek(0)
        place = _place_of_digest(file.read(8 + min(size, path.stat().st_size)))
    if place is not None:
        require_digest(path, place)
    return place is not None


def read(path: Path) -> dict[str, Any]:
    """Read a file of `write`. Raises ValueError for other files, DamagedFile for a damaged one."""
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  not a mapping
        is_sealed = has_digest(path)
    except SafetensorError as error:
        raise DamagedFile(path, f"it is not a whole safetensors file: {error}") from error
    if RECORD not in metadata:
        raise ValueError(f"path: {str(path)!r} holds no limelight record; it was not written by Attribution.save")
    try:
        record = json.loads(metadata[RECORD])
        written = record.pop("format", 1)
        require_format(path, written, record.pop(DIGEST, None) is not None, is_sealed)
        fields = {name: decode(value, tensors) for name, value in record.items()}
        return _from_format1(fields) if written == 1 else fields
    except DamagedFile:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"path: {str(path)!r} holds a record that can't be read ({type(error).__name__}: {error}); "
            "use a file that Attribution.save wrote"
        ) from error


def verify(path: Path) -> bool:
    """Whether a file of `write` has a digest. Raises ValueError for other files, DamagedFile for a damaged one.

    The `.json` beside it, where there is one, must be the record inside it.
    """
    read(path)
    beside = path.with_suffix(".json")
    if not has_digest(path):
        return False
    with safe_open(path, "pt") as opened:
        record = opened.metadata()[RECORD]
    if beside.is_file() and beside.read_bytes() != (record + "\n").encode():
        raise DamagedFile(beside, f"it is not the record in {path.name}")
    return True


def require_format(path: Path, written: object, tells_digest: bool, has_digest: bool) -> None:
    """Raise ValueError for a later format, DamagedFile where a digest is missing, or stands where none should be."""
    if written not in (1, 2, FORMAT):
        raise ValueError(f"it has format {written!r}, and this version of limelight reads up to {FORMAT}")
    if not tells_digest == has_digest == (written == FORMAT):
        raise DamagedFile(path, f"its digest does not fit its format {written}")


def encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return JSON for a value: plain values, tensors by key, registered classes by name, all others as text."""
    found: dict[str, Tensor] = {}
    try:
        encoded = _encoded_value(value, key, found)
    except _NoRecord:
        return {"$repr": repr(value)}
    tensors |= found
    return encoded


class _NoRecord(Exception):
    """A value contains a part, such as a function, that can't be saved."""


def _encoded_value(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Note():
            return {"$note": [value.kind, value.text, value.example]}
        case Text():
            return {"$text": dataclasses.astuple(value)}
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            tensors[key] = value.detach().cpu().contiguous().clone()
            return {"$tensor": key}
        case tuple() | list():
            return {"$tuple": [_encoded_value(each, f"{key}.{i}", tensors) for i, each in enumerate(value)]}
        case Mapping():
            return {"$map": {str(name): _encoded_value(each, f"{key}.{name}", tensors) for name, each in value.items()}}
        case Named() if registered(type(value).__name__) is type(value):
            assert dataclasses.is_dataclass(value)
            fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.init}
            return {
                "$class": type(value).__name__,
                "fields": {name: _encoded_value(each, f"{key}.{name}", tensors) for name, each in fields.items()},
            }
    raise _NoRecord


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"$note": [kind, text, example]}:
            return Note(kind, text, tuple(example) if isinstance(example, list) else example)
        case {"$text": [string, tokens, offsets, special, continued]}:
            return Text(string, tuple(tokens), tuple(map(tuple, offsets)), tuple(special), continued)
        case {"$tensor": key}:
            return tensors[key]
        case {"$tuple": values}:
            return tuple(decode(each, tensors) for each in values)
        case {"$map": entries}:
            return {name: decode(each, tensors) for name, each in entries.items()}
        case {"$class": name, "fields": fields}:
            kind = registered(RENAMED.get(name, name))
            if kind is None:
                raise ValueError(f"it has a {name!r}, which this version of limelight does not know")
            return kind(**{field: decode(each, tensors) for field, each in fields.items()})
        case {"$repr": text}:
            return text
        case dict():
            raise ValueError(f"it has an entry of unknown kind: {value!r}")
    return value


# Notes of format 1 were plain sentences. These words in them determine the kind.
_FORMAT1_KINDS: Mapping[str, Kind] = {
    "NOT converged": "not-converged",
    "did not converge": "not-converged",
    "INCOMPLETE": "incomplete",
    "PLAIN GRADIENT": "plain-gradient",
    "identically zero": "zero-map",
    "never hidden": "caution",
    "INTERRUPTED": "caution",
    "stderr is NaN": "caution",
    "delta is NaN: ": "no-sum",
}


def _from_format1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an attribution of format 1, with its sentences as notes."""
    return {**fields, "notes": tuple(map(_format1_note, fields["notes"]))} if "notes" in fields else dict(fields)


def _format1_note(sentence: str) -> Note:
    kind: Kind = next((kind for words, kind in _FORMAT1_KINDS.items() if words in sentence), "fact")
    place: Place | None = None
    found = re.match(r"example (\d+)(?:, target (\d+))?: ", sentence)
    if found:
        place = int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
    return Note(kind, sentence[found.end() :] if found else sentence, place)
