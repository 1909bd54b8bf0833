"""Reading ahead: the examples of the next group are read and opened in threads while the model explains this one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Semaphore

from .examples import Opened, Reader
from .manifest import Entry

AT_ONCE = 16  # files that one worker reads at once: a bucket takes its time for each
Group = Sequence[tuple[int, Entry]]
"""The numbers and entries of the examples that are explained at once."""


@dataclass(frozen=True)
class Found:
    """What reading an example gave: `opened`, or the `error`. `entry` has the hash of the content, if it was read."""

    entry: Entry
    opened: Opened | None = None
    error: Exception | None = None


def read_example(reader: Reader, entry: Entry, opening: AbstractContextManager[object] | None = None) -> Found:
    """Read and open an example, inside `opening` where given. Any error is part of what is returned."""
    try:
        entry, content = reader.read(entry)
        with opening or nullcontext():
            return Found(entry, reader.open(entry, content))
    except Exception as error:  # noqa: BLE001  any error of an example is recorded, whatever its library raises
        return Found(entry, error=error)


class Ahead:
    """Reads groups of examples, up to 16 files at once, and keeps at most one group that was not asked for yet.

    Pictures are decoded by `decoders` threads at once, because each takes a core, and memory for the whole picture.
    """

    def __init__(self, reader: Reader, decoders: int) -> None:
        self._reader, self._decoding = reader, Semaphore(decoders)
        self._pool = ThreadPoolExecutor(AT_ONCE, "limelight reader")
        self._begun: dict[int, Future[Found]] = {}

    def begin(self, group: Group) -> None:
        """Begin to read a group, the only one that is kept."""
        if self._reader.in_threads:
            old = self._begun
            self._begun = {example: old.get(example) or self._submit(entry) for example, entry in group}

    def take(self, group: Group) -> list[Found]:
        """Return what reading each example of a group gave; those that `begin` was not called for are read now."""
        if not self._reader.in_threads:
            return [read_example(self._reader, entry) for _, entry in group]
        self.begin(group)
        begun, self._begun = self._begun, {}
        return [begun[example].result() for example, _ in group]

    def _submit(self, entry: Entry) -> Future[Found]:
        return self._pool.submit(read_example, self._reader, entry, self._decoding)

    def close(self) -> None:
        """End the threads, once they have read what they began."""
        self._pool.shutdown(wait=False, cancel_futures=True)
