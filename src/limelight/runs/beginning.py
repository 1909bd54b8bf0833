"""The beginning of a start: the run in a folder is opened, or one is begun there and its examples are listed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..base.errors import DamagedFile
from ..base.seals import parse_sealed_json, sealed_json
from .compacted import RECORDS
from .job import Job, differences
from .ledger import BEGIN_AGAIN, BEGUN, DONE, INDEX, LEASES, LOCK, MANIFEST, PLAN, SHARDS, STATUS, Ledger, starting
from .listing import Listed, Listing
from .manifest import Manifest
from .owner import OWNER
from .plan import Counts, Plan
from .sources import find_examples
from .status import Meter
from .storage import Storage, storage_at
from .tables import arrow
from .text_sources import find_texts

_OWN = {BEGUN, LOCK, LEASES, MANIFEST, STATUS, SHARDS, INDEX, DONE, OWNER, RECORDS}  # the files of an interrupted start
_FILES = {SHARDS: "safetensors", INDEX: "parquet", DONE: "json", OWNER: "json", LEASES: "json"}  # in folders


@dataclass(frozen=True)
class Begun:
    """A run to go on with: its ledger, the shards to do, and what was done before.

    `plan`: that of a run that is being listed, whose ledger has no other; None where the plan is written.
    """

    ledger: Ledger
    source: Listed | Listing
    counts: Counts = field(default_factory=Counts)
    failures: tuple[str, ...] = ()
    plan: Plan | None = None


def require_free(out: PurePath) -> None:
    """Raise ValueError where a place holds something else than a run, before anything is written or deleted there.

    A folder of pictures may have the names of ours.
    """
    storage = storage_at(out)
    names = storage.names()
    if PLAN in names:
        return
    strange = [name for name in names if name not in _OWN and not name.endswith(".part")]
    for folder, suffix in _FILES.items():
        strange += [name for name in storage.files(folder) if not re.search(rf"/\d{{6,}}\.{suffix}$", name)]
    if strange:
        raise ValueError(f"output: {str(out)!r} holds {min(strange)!r} and no run; choose an empty folder")


def begin(job: Job, out: PurePath, verify: bool = False) -> Begun:
    """Open the run in `out`, or begin one there and list its examples in a thread.

    `verify`: compare the files of finished shards with their SHA-256. Raises ValueError where the run there has other
    settings, each named, or where an argument does not fit the model, DamagedFile where its plan or manifest is
    damaged, and what loading the model raises, or listing before the first example.
    """
    arrow()  # raises before anything is written
    model = job.load()
    job.require_fitting(model)
    settings, labels = job.settings(model), model.labels
    del model
    with ExitStack() as held:
        held.enter_context(starting(out))
        if isinstance(out, Path):
            for folder in (SHARDS, INDEX, DONE):  # of an older start too: copies may lack a folder that was empty
                (out / folder).mkdir(exist_ok=True)
        try:
            ledger = Ledger.open(out)
        except FileNotFoundError:
            return _listing(job, settings, labels, out, held, verify)
        if job.shard_size is None:
            settings["shard_size"] = ledger.plan.settings["shard_size"]
        _require_equal(out, ledger.plan.settings, settings)
        if not ledger.is_sealed:
            _require_same_plan(ledger, job, settings)
    found = ledger.survey(hashed=verify)
    return Begun(ledger, Listed(found.to_do), found.counts, found.failures)


def _require_equal(out: PurePath, old: Mapping[str, Any], settings: dict[str, Any]) -> None:
    changed = differences(old, settings)
    if changed:
        raise ValueError(
            f"output: {str(out)!r} holds a run with other settings: {'; '.join(changed)}; "
            "go on with the old ones, or choose another folder"
        )


def _require_same_plan(ledger: Ledger, job: Job, settings: dict[str, Any]) -> None:
    """Compare a plan without a digest with what the manifest and the settings make it. Raises DamagedFile."""
    manifest = Manifest(ledger.out / MANIFEST)
    counted = manifest.count(), manifest.labels(), ledger.plan.manifest
    if Plan(settings, job.method_names, job.check_names, *counted, format=ledger.plan.format) != ledger.plan:
        raise DamagedFile(ledger.out / PLAN, f"it does not fit {MANIFEST}", BEGIN_AGAIN)


def _listing(
    job: Job, settings: dict[str, Any], labels: Sequence[str], out: PurePath, held: ExitStack, verify: bool
) -> Begun:
    """Begin a run, or go on with one that was interrupted while it was listed: it is listed again.

    Shards that it had done are kept where their entries are the same. The lock on the folder is kept until the end. A
    mistake in `images` is raised here, before anything is hired.
    """
    storage = storage_at(out)
    if storage.files(DONE):
        old = _settings_begun(storage)
        if job.shard_size is None:
            settings["shard_size"] = old.get("shard_size")
        _require_equal(out, old, settings)
    storage.write(BEGUN, sealed_json({"settings": settings}, indent=1), "begun")
    if job.text_column is None:
        entries = find_examples(job.images, job.limit, job.elsewhere)
    else:
        entries = find_texts(job.images, job.text_column, job.elsewhere)
    ledger = Ledger(out, Plan.begun(settings, job.method_names, job.check_names))
    meter = Meter(out, Counts(), config=ledger.config)
    meter.report()  # before a thread begins to list, so that the status tells of the run from its first example on
    listing = Listing(ledger, entries, labels, held.pop_all(), verify)
    try:
        with meter.watching():
            listing.wait()
    except BaseException:
        listing.close()
        raise
    return Begun(ledger, listing, plan=ledger.plan)


def _settings_begun(storage: Storage) -> dict[str, Any]:
    """Read the settings of a start that was interrupted. Raises DamagedFile."""
    path = storage.path(BEGUN)
    try:
        found: dict[str, Any] = parse_sealed_json(storage.read(BEGUN), path)[0]["settings"]
    except FileNotFoundError as error:
        raise DamagedFile(storage.path(PLAN), f"it is missing, as {BEGUN} is, beside {DONE}", BEGIN_AGAIN) from error
    except (KeyError, TypeError) as error:
        raise DamagedFile(path, f"{type(error).__name__}: {error}", BEGIN_AGAIN) from error
    except DamagedFile as error:
        raise DamagedFile(error.path, error.why, BEGIN_AGAIN) from error
    return found


def compact(begun: Begun) -> None:
    """Write the records of a run that has ended into one file, where that is worth it."""
    ledger = begun.source.complete() if isinstance(begun.source, Listing) else begun.ledger
    ledger.compact(all_of_them=True)
