"""A stored run: a lazy data set of maps, readable while the run continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from io import BytesIO
from os import PathLike
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base.errors import DamagedFile
from ..base.plain_text import split_texts
from ..base.text import Text
from ..base.view import SINGLE_PIXELS, View, view_of
from ..methods import METHODS
from ..models.pictures import Preprocessing, open_image, prepare
from .ledger import MAKE_AGAIN, MANIFEST, Done, Ledger
from .manifest import Entry, Manifest
from .plan import Counts
from .rows import map_checksum
from .shard_file import ShardFile
from .status import Status, read_status
from .storage import as_place
from .tables import arrow

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..show import Tile

_KEPT = 8  # shards whose record and index stay in memory, and whose file stays open


@dataclass(frozen=True, eq=False)
class StoredMap:
    """One example's map by one method. `row`: its line of the index. `values` are read from disk at each access.

    `path`: the file of its shard, which `open` opens or has open.
    """

    row: Mapping[str, Any]
    path: PurePath
    open: Callable[[], ShardFile]

    @property
    def error(self) -> str:
        """The error that prevented the map; empty where there is a map."""
        return str(self.row["error"])

    @property
    def values(self) -> Tensor:
        """The map: `(channels, H, W)`, or `(H, W)` where the run stores heatmaps; of texts `(channels, tokens)`, or
        `(tokens)`.

        Raises ValueError for an example that failed and for a run that stores no maps, DamagedFile for a damaged file.
        """
        if self.error:
            raise ValueError(f"example {self.row['id']} ({self.row['path']}) failed: {self.error}")
        if self.row["offset"] is None:
            raise ValueError("store: this run keeps scores alone; run it with --store values or heatmap-float16")
        try:
            kept = self._read(self.open())
        except (FileNotFoundError, ValueError) as error:
            raise _damaged(self.path, f"{type(error).__name__}: {error}") from error
        _require_checksum(self.path, kept, self.row["checksum"])
        return kept if self.row["scale"] is None else kept.float() * self.row["scale"]

    def _read(self, shard: ShardFile) -> Tensor:
        """Read the map; of texts, whose maps stand side by side, cut it out of those of the shard."""
        method, start = self.row["method"], self.row["offset"]
        if self.text is None:
            return shard.one(method, start)
        return shard.all(method)[..., start : start + len(self.text)]

    @property
    def text(self) -> Text | None:
        """The text and its tokens, of an example of texts that did not fail."""
        read = self.row.get("tokenized")
        return None if read is None else Text.of_json(read)

    def heatmap(self) -> Tensor:
        """One value per pixel `(H, W)`, or per token: channels summed with their sign."""
        values = self.values
        return values.sum(0) if values.ndim == self._space + 1 else values

    @property
    def channels(self) -> Tensor:
        """The map `(channels, H, W)`; of a run that stores heatmaps, their one sum over channels."""
        values = self.values.float()
        return values.reshape(-1, *values.shape[-self._space :])

    @property
    def _space(self) -> int:
        return 2 if self.row.get("tokenized") is None else 1

    @property
    def reduced(self) -> tuple[str, ...]:
        """What a caption says of a map of which the run stores the sum over channels alone."""
        return () if self.row["scale"] is None else ("of the channels' sum, which the run stores",)


class Example:
    """One example of a run: its maps by the methods' names, in the run's order."""

    def __init__(self, entry: Entry, maps: Sequence[StoredMap]) -> None:
        self.entry = entry
        self.maps: Mapping[str, StoredMap] = {str(each.row["method"]): each for each in maps}

    def __getitem__(self, method: str) -> StoredMap:
        if method not in self.maps:
            raise KeyError(f"{method!r} is not in the run, which has {', '.join(self.maps)}")
        return self.maps[method]

    @property
    def first(self) -> StoredMap:
        return next(iter(self.maps.values()))

    @property
    def values(self) -> Tensor:
        """The map by the first method."""
        return self.first.values

    @property
    def error(self) -> str:
        return "; ".join(dict.fromkeys(each.error for each in self.maps.values() if each.error))


class Run:
    """A run on disk: `run[17]` is the example of that id, `table()` the whole index.

    Everything is read from disk when it is used; the records and files of the last few shards stay open. Examples that
    are not done yet are missing. `out`: the folder, or the `Url` of a bucket.
    """

    def __init__(self, out: PurePath) -> None:
        self.out = out
        self._ledger = Ledger.open(out)
        self._record = lru_cache(_KEPT)(self._done)
        self._shard = lru_cache(_KEPT)(self._open)
        self._rows = lru_cache(_KEPT)(lambda shard: self._index(shard).to_pylist())
        self._checksums = lru_cache(_KEPT)(self._checksums_of)
        self._entries = lru_cache(_KEPT)(Manifest(out / MANIFEST).shard)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's settings, as plain values."""
        return self._ledger.plan.settings

    @property
    def methods(self) -> tuple[str, ...]:
        return self._ledger.plan.method_names

    @property
    def checks(self) -> tuple[str, ...]:
        return self._ledger.plan.check_names

    @property
    def counts(self) -> Counts:
        return self._ledger.counts_of(self._ledger.records()[0])

    @property
    def status(self) -> Status:
        return read_status(self.out)

    @property
    def is_of_texts(self) -> bool:
        """Whether the examples are texts."""
        return self.settings.get("text_column") is not None

    @property
    def failed(self) -> int:
        return self.counts.failed

    def __len__(self) -> int:
        """Count the examples to explain, done or not."""
        return self._ledger.plan.examples

    def __getitem__(self, example: int) -> Example:
        """Return an example.

        Raises IndexError for an id beyond the run, LookupError for one that is not done yet, DamagedFile for a damaged
        record or index.
        """
        if not -len(self) <= example < len(self):
            raise IndexError(f"example {example}: the run has {len(self)}")
        shard = self._ledger.plan.shard_of(example % len(self))
        place = example % len(self) - self._ledger.plan.ids(shard).start
        try:
            self._record(shard)
        except LookupError as error:
            raise LookupError(f"example {example} is not done yet; the run has {self.status.line()}") from error
        count, path = len(self.methods), self._ledger.shard_path(shard)
        rows = self._rows(shard)[place * count : (place + 1) * count]
        entry = replace(self._entries(shard)[place], content=rows[0]["content"])
        return Example(entry, [StoredMap(row, path, partial(self._shard, shard)) for row in rows])

    def __iter__(self) -> Iterator[Example]:
        """Iterate over the examples that are done, in order."""
        for shard in self._shards_done():
            yield from map(self.__getitem__, self._ledger.plan.ids(shard))

    def _shards_done(self) -> Iterator[int]:
        return filter(self._ledger.done, range(self._ledger.plan.shards))

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """Read the index as a `pyarrow.Table`: a row for each finished example and method, in order.

        Raises LookupError where nothing is done yet, KeyError for a column that it lacks, DamagedFile for a damaged
        record or index.
        """
        found = arrow().concat_tables(list(self.tables(columns)))
        return found if columns is None else found.select(list(columns))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the part of `table` of each finished shard; columns that an index lacks are left out. Raises as it."""
        shard = None
        for shard in self._shards_done():
            yield self._index(shard, columns)
        if shard is None:
            raise LookupError(f"nothing is done yet; the run has {self.status.line()}")

    def shard_maps(self, shard: int, method: str, offsets: Sequence[int] | None = None) -> Tensor:
        """Read maps of a shard by one method, `(maps, *shape)`, as stored: float16 unscaled.

        `offsets`: the places of the maps in the shard, all by default. Raises DamagedFile where a map has not the
        checksum in the index, ValueError for texts.
        """
        if self.is_of_texts:
            raise ValueError("maps of texts have different lengths; read them one by one, run[17].values")
        checksums = self._checksums(shard, method)
        places = range(len(checksums)) if offsets is None else offsets
        if not places:
            return torch.empty(0)
        path = self._ledger.shard_path(shard)
        try:
            opened = self._shard(shard)
            if opened.count(method) != len(checksums):
                raise ValueError(f"{opened.count(method)} maps by {method}, and {len(checksums)} in the index")
            found = opened.all(method) if offsets is None else torch.stack([opened.one(method, i) for i in places])
        except (FileNotFoundError, ValueError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        for kept, place in zip(found, places, strict=True):
            _require_checksum(path, kept, checksums[place])
        return found

    def picture(self, example: int) -> Tensor:
        """Read the picture as the model received it, `(3, H, W)` in [0, 1].

        Raises OSError where the file is missing, ValueError where it is no picture or was changed since.
        """
        if self.is_of_texts:
            raise ValueError("the run is of texts; run[17].first.text is the text of an example")
        entry = self[example].entry
        opened = open_image(entry.read(), name=entry.path, white=self.settings.get("white"))
        return prepare(opened, Preprocessing(**self.settings["preprocessing"]))[0][0]

    def view_of(self, method: str) -> View:
        """Return the view of a method of the run: how its maps are drawn by default.

        Single pixels for a method that is not registered here.
        """
        text = self.settings["method"][self.methods.index(method)]
        kind = METHODS.kind_of(text.partition("(")[0])
        if self.is_of_texts:
            return View("magnitude") if kind is not None and kind.per_unit else SINGLE_PIXELS
        return _view_of(text)

    def show(self, example: int, view: View | str | None = None) -> Image:
        """Draw the example's maps over its picture, as a PIL image; `view` as in `Attribution.show`.

        Raises as `picture` and `StoredMap.values` do.
        """
        from ..show import draw_panel, picture_of
        from ..show.subject import text_drawing

        found = self[example]
        tiles = [
            self.tile(each, (*_caption(each.row), *each.reduced), view_of(view, self.view_of(name)))
            for name, each in found.maps.items()
        ]
        row, text = found.first.row, found.first.text
        heading = f"{row['path']}: target {row['target']}, says {row['predicted']}"
        subject = picture_of(self.picture(example), clip=True) if text is None else text_drawing(text)
        return draw_panel(subject, tiles, heading)

    def tile(self, found: StoredMap, lines: Sequence[str], view: View) -> Tile:
        """Return the tile of a map, as the view draws it. Raises as `StoredMap.values` does."""
        from ..show.drawn import text_tile, tile_of

        name, text = str(found.row["method"]), found.text
        if text is None:
            return tile_of(name, lines, found.channels, view)
        return text_tile(name, lines, found.channels, text, view)

    def __repr__(self) -> str:
        return f"Run({str(self.out)!r}, {', '.join(self.methods)}: {self.status.line()})"

    def _done(self, shard: int) -> Done:
        """Read the record of a shard. Raises LookupError where it is not done, DamagedFile for a damaged record."""
        done = self._ledger.done(shard)
        if done is None:
            raise LookupError(shard)
        return done

    def _open(self, shard: int) -> ShardFile:
        name = str(self._ledger.shard_path(shard).relative_to(self.out))
        return ShardFile(self._ledger.storage.open(name))

    def _index(self, shard: int, columns: Sequence[str] | None = None) -> Any:
        """Read a finished shard's rows, or some columns, and add their seconds from its record (see `Done`)."""
        done, path = self._record(shard), self._ledger.index_path(shard)
        name = str(path.relative_to(self.out))
        try:
            content = self._ledger.storage.read(name)
        except FileNotFoundError as error:
            raise _damaged(path, "it is missing") from error
        if sha256(content).hexdigest() != done.files.get(name, {}).get("sha256"):
            raise _damaged(path, "it has not the SHA-256 in its record")
        table = arrow("parquet").ParquetFile(BytesIO(content)).read(None if columns is None else list(columns))
        if columns is not None and "seconds" not in columns:
            return table
        place = table.column_names.index("error") if columns is None else table.num_columns
        return table.add_column(place, "seconds", arrow().array(done.seconds, arrow().float64()))

    def _checksums_of(self, shard: int, method: str) -> list[str]:
        """Return the checksums of a shard's maps by one method, in their order."""
        rows = self._index(shard, ("method", "offset", "checksum")).to_pylist()
        return [row["checksum"] for row in rows if row["method"] == method and row["offset"] is not None]


def _view_of(method: str) -> View:
    """Return the view of a method, written with its settings; of a wrapper, that of the method inside.

    Its other settings are not read: an array is written by its hash, and a forged plan may name a file.
    """
    name, _, settings = method.partition("(")
    kind = METHODS.kind_of(name)
    view: object = SINGLE_PIXELS if kind is None else kind.view  # of the class of a wrapper a property
    if isinstance(view, View):
        return view
    parts = map(str.strip, split_texts(settings.rpartition(")")[0]))
    return _view_of(next((part.removeprefix("inner=") for part in parts if part.startswith("inner=")), ""))


def _damaged(path: PurePath, why: str) -> DamagedFile:
    return DamagedFile(path, why, MAKE_AGAIN)


def _require_checksum(path: PurePath, kept: Tensor, checksum: str) -> None:
    if map_checksum(kept.contiguous()) != checksum:
        raise _damaged(path, "a map has not the checksum in the index")


def _caption(row: Mapping[str, Any]) -> tuple[str, ...]:
    delta = "" if row["delta"] is None else f"delta {row['delta']:.2g}"
    return tuple(filter(None, (f"score {row['score']:.4g}", delta, row["notes"])))


def open_run(output: str | PathLike[str]) -> Run:
    """Open the run in a folder, or in a bucket (`s3://bucket/run`).

    Raises FileNotFoundError where there is none, DamagedFile where its plan or its manifest is damaged.
    """
    return Run(as_place(output))
