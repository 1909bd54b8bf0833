"""verify(): which files of a run, an audit or a saved map are as they were written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from ..base import panel_file, records
from ..base.errors import DamagedFile
from ..base.seals import parse_sealed_json
from ..base.urls import Url
from .bundle import BUNDLE
from .compacted import RECORDS, read_compacted
from .ledger import BEGIN_AGAIN, BEGUN, MANIFEST, PLAN, STATUS, Ledger
from .opening import is_remote
from .owner import OWNER
from .status import require_own_status
from .storage import Storage, as_place, storage_at

Outcome = Literal["whole", "to be made again", "damaged"]
_AUDIT_AGAIN = "the same limelight audit command writes it again"
_START_AGAIN = "the next start writes it again"
_MAP_AGAIN = "save the map again"


@dataclass(frozen=True)
class Verification:
    """What was found at a path.

    `whole`: the number of files that are as they were written. `damaged`: those that are not, and that a command makes
    again. `lost`: those that are not, and that nothing makes again. `shards`: those that the same command as before
    would do: not begun, damaged, or stopped by missing memory. `examples`: the examples in them. `unsealed`: files of
    older versions, without a digest: they can be read, and that is all that is known.
    """

    path: PurePath
    whole: int
    damaged: tuple[DamagedFile, ...] = ()
    lost: tuple[DamagedFile, ...] = ()
    shards: tuple[int, ...] = ()
    examples: int = 0
    unsealed: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return "damaged" if self.lost else "to be made again" if self.damaged or self.shards else "whole"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        files = {name: [{"path": str(each.path), "why": each.why} for each in getattr(self, name)] for name in _LISTS}
        plain = {"path": str(self.path), "outcome": self.outcome, "whole": self.whole, **files}
        return plain | {"shards": list(self.shards), "examples": self.examples, "unsealed": list(self.unsealed)}


_LISTS = ("damaged", "lost")


def verify(path: str | os.PathLike[str]) -> Verification:
    """Compare every file at a path with its digest: a run or an audit, a saved map, or a folder of saved maps.

    Maps are `.safetensors` and `.npz` files of `Attribution.save` and `Panel.save`. Files are read whole, nothing is
    written. Raises FileNotFoundError where there is nothing of the kind, ValueError for other files.

        found = ll.runs.verify("out/")
        found.outcome, found.damaged, found.shards
    """
    out = as_place(path, "path")
    if storage_at(out).facts(PLAN) is not None:
        return _verify_run(out if is_remote(str(path)) else Path(path))
    if storage_at(out).facts(BEGUN) is not None:
        return _verify_begun(out)
    if isinstance(out, Url):
        raise FileNotFoundError(f"path: {str(out)!r} holds no run ({PLAN}); saved maps are verified on this machine")
    place = Path(path)
    files = sorted(each for each in place.iterdir() if _is_map(each) and each.is_file()) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"path: {str(path)!r} holds no run ({PLAN}) and no saved map (.safetensors, .npz)")
    return _verify_maps(place, files)


def _is_map(path: Path) -> bool:
    return path.suffix in (".safetensors", ".npz")


def _verify_maps(place: Path, files: list[Path]) -> Verification:
    lost, unsealed = list[DamagedFile](), list[str]()
    for each in files:
        if not _is_map(each):
            raise ValueError(f"path: {str(each)!r} is no saved map; use a .safetensors or .npz file, or a folder")
        try:
            is_sealed = panel_file.verify(each) if each.suffix == ".npz" else records.verify(each)
        except DamagedFile as error:
            lost.append(DamagedFile(error.path, error.why, _MAP_AGAIN))
        else:
            unsealed += [] if is_sealed else [str(each)]
    return Verification(place, len(files) - len(lost), lost=tuple(lost), unsealed=tuple(unsealed))


def _verify_begun(out: PurePath) -> Verification:
    """Verify a run whose examples are not all listed, so that it has no plan."""
    try:
        parse_sealed_json(storage_at(out).read(BEGUN), out / BEGUN)
    except DamagedFile as error:
        return Verification(out, 0, lost=(DamagedFile(error.path, error.why, BEGIN_AGAIN),))
    missing = DamagedFile(out / PLAN, "it is missing, since not all examples are listed", _START_AGAIN)
    return Verification(out, 1, damaged=(missing,))


def _verify_run(out: PurePath) -> Verification:
    try:
        ledger = Ledger.open(out)
    except DamagedFile as error:
        return Verification(out, 0, lost=(error,))
    found: dict[PurePath, DamagedFile | None] = {out / PLAN: None, out / MANIFEST: None}
    unsealed = [] if ledger.is_sealed else [PLAN]
    shards = []
    for shard in range(ledger.plan.shards):
        found |= dict(_files_of(ledger, shard))
        done = ledger.checked_done(shard)
        files = {} if done is None else done.files
        if done is None or done.again or any(found[out / name] for name in files):
            shards.append(shard)
    storage = ledger.storage
    if storage.facts(STATUS) is not None:
        found[out / STATUS] = _error_of_status(ledger)
    if storage.facts(RECORDS) is not None:
        found[out / RECORDS] = _error_of_compacted(storage)
    for name in storage.files(OWNER):
        found[out / name] = _error_of_owner(storage, name)
    if storage.facts(BUNDLE) is not None:
        is_sealed, audit = _audit_files(storage)
        unsealed += [] if is_sealed else [BUNDLE]
        found = {**audit, **{path: error or audit.get(path) for path, error in found.items()}}
    damaged = tuple(error for error in found.values() if error)
    examples = sum(len(ledger.plan.ids(shard)) for shard in shards)
    return Verification(out, len(found) - len(damaged), damaged, (), tuple(shards), examples, tuple(unsealed))


def _files_of(ledger: Ledger, shard: int) -> Iterator[tuple[PurePath, DamagedFile | None]]:
    """Yield the files of a shard that are there or should be, each with its damage."""
    path = ledger.done_path(shard)
    try:
        done = ledger.done(shard)
    except DamagedFile as error:
        yield path, error
        return
    if done is None:
        return  # not done yet
    yield path, None
    damages = {each.path: each for each in ledger.damages(done)}
    for name in done.files:
        yield ledger.out / name, damages.get(ledger.out / name)


def _error_of_status(ledger: Ledger) -> DamagedFile | None:
    try:
        require_own_status(ledger.out, ledger)
    except DamagedFile as error:
        return DamagedFile(error.path, error.why, _START_AGAIN)
    return None


def _error_of_compacted(storage: Storage) -> DamagedFile | None:
    try:
        read_compacted(storage.read(RECORDS))
    except ValueError as error:
        return DamagedFile(storage.path(RECORDS), str(error), _START_AGAIN)
    return None


def _error_of_owner(storage: Storage, name: str) -> DamagedFile | None:
    try:
        parse_sealed_json(storage.read(name), storage.path(name))
    except DamagedFile as error:
        return DamagedFile(error.path, error.why, _START_AGAIN)
    return None


def _audit_files(storage: Storage) -> tuple[bool, dict[PurePath, DamagedFile | None]]:
    """Return whether the list of an audit's files has a digest, and the files with their damage."""
    path = storage.path(BUNDLE)
    try:
        bundle, is_sealed = parse_sealed_json(storage.read(BUNDLE), path)
        listed = {name: each["sha256"] for name, each in bundle["files"].items()}
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        why = error.why if isinstance(error, DamagedFile) else f"{type(error).__name__}: {error}"
        return True, {path: DamagedFile(path, why, _AUDIT_AGAIN)}
    found: dict[PurePath, DamagedFile | None] = {path: None}
    for name, sha256 in listed.items():
        place = storage.path(name)
        whole = storage.facts(name) is not None and storage.sha256(name) == sha256
        found[place] = None if whole else DamagedFile(place, f"it has not the SHA-256 in {BUNDLE}", _AUDIT_AGAIN)
    return is_sealed, found
