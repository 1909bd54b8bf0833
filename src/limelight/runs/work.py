"""A worker: holds the model, takes a shard at a time, and writes its results."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import PurePath

import torch

from ..answer import answer
from ..base.attribution import Attribution
from ..checks.case import open_case
from ..checks.shared import Shared
from ..engine.memory import is_out_of_memory
from ..evaluation.check import as_mask, measure
from ..evaluation.findings import Finding
from ..methods import Method
from ..question.question import Question, question_of
from .agreeing import add_agreement, agreement_columns
from .examples import Opened, reader_of
from .in_hand import InHand, Reporter
from .job import LABEL, Job, differences, model_identity
from .leases import NOWHERE
from .ledger import MANIFEST, Done, Lease, Ledger
from .manifest import Entry, Manifest, entries_hash
from .plan import Plan
from .reading import Ahead, Found, Group, read_example
from .rows import Row, facts_of, index_bytes, shard_bytes, stored

_MOST_DEATHS = 2  # of workers at one place; then the group is split, or the example fails
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"  # 1, and near misses such as 1.0 or -1
_FAILURES = 3  # that a record quotes
Methods = Sequence[tuple[str, Method]]


@dataclass(frozen=True)
class Task:
    """A shard to do, and the places where earlier workers died in it.

    `first`, `entries`: its first example and its entries, while the manifest is not complete; else workers read them
    there.
    """

    shard: int
    deaths: tuple[int, ...] = ()
    first: int = 0
    entries: tuple[Entry, ...] = ()

    def ledger(self, begun: Ledger) -> Ledger:
        """Return the ledger of a run that is being listed, as far as to this shard."""
        return Ledger(begun.out, replace(begun.plan, entries=self.first + len(self.entries)))

    @property
    def digest(self) -> str:
        return entries_hash(self.entries)


@dataclass
class _Shard:
    """The results of a shard so far."""

    lease: Lease
    task: Task
    ledger: Ledger
    entries: Sequence[Entry]
    rows: list[Row] = field(default_factory=list)
    model_rows: int = 0
    again: bool = False

    def is_lethal(self, place: int) -> bool:
        return self.task.deaths.count(place) >= _MOST_DEATHS

    def failures(self) -> dict[int, str]:
        """Return the first error of each example that failed, after its path."""
        return {row.id: f"{row.entry.path}: {row.error}" for row in reversed(self.rows) if row.error}

    def fail(self, example: int, entry: Entry, methods: Sequence[str], error: BaseException) -> None:
        # With more memory, or another worker, the example may succeed in a later start.
        self.again |= is_out_of_memory(error) or isinstance(error, ChildProcessError)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        self.rows += [Row(example, method, entry, error=text) for method in methods]


@dataclass(frozen=True)
class _Item:
    """An example that could be read. `label`: the class of its label, if known."""

    id: int
    opened: Opened
    label: int | None

    @property
    def entry(self) -> Entry:
        return self.opened.entry


class Worker:
    """One model in one process.

    `plan`: that of a run that is being listed, or None where it is written. `send` receives the work in hand after the
    first pass, and then now and then. `upcoming` returns the task after the one at work, whose first group is read
    ahead, or None.

    Raises what loading the model raises, ValueError where the run's plan has another model.
    """

    def __init__(
        self,
        job: Job,
        out: PurePath,
        plan: Plan | None = None,
        send: Callable[[InHand], None] = lambda in_hand: None,
        upcoming: Callable[[], Task | None] = lambda: None,
    ) -> None:
        torch.set_num_threads(job.threads)
        self.job, self._out = job, out
        self.ledger = self._sealed if plan is None else Ledger(out, plan)
        self.model = job.load()
        self.rows, self.reader = job.rows(self.model), reader_of(job, self.model)
        self.ahead, self._upcoming = Ahead(self.reader, job.threads), upcoming
        self.reporter = Reporter(send, job.passes(self.model))
        found = model_identity(self.model)
        changed = differences({name: self.ledger.plan.settings[name] for name in found}, found)
        if changed:
            raise ValueError(f"model: {self.model.name} is another than that of the run's plan: {'; '.join(changed)}")

    def work(self, task: Task, contents: Sequence[Found] | None = None) -> Done | None:
        """Do the shard and return its record, or the record of a worker that did it before.

        `contents`: its examples where somebody else has read them. Returns None where another worker holds the shard.
        An error of an example is recorded, and the others are still explained. Raises OSError where the files cannot be
        written.
        """
        return self.explain(task, contents)()

    def explain(self, task: Task, contents: Sequence[Found] | None = None) -> Callable[[], Done | None]:
        """Explain the shard, and return a function that writes it and returns what `work` does.

        That function may be called in a thread while the next shard is explained; it must be called, because the shard
        is held until then.
        """
        ledger, entries = self._ledger(task), self._entries(task)
        with ExitStack() as held:
            lease = held.enter_context(ledger.lease(task.shard, bool(task.deaths)))
            if lease is None:
                return lambda: None
            done = ledger.checked_done(task.shard)
            if done is not None and done.entries in ("", entries_hash(entries)):
                return lambda: done
            shard = self._explained(_Shard(lease, task, ledger, entries), contents)
            rest = held.pop_all()

        def write() -> Done:
            with rest:
                return self._written(shard)

        return write

    def close(self) -> None:
        """End the threads that read."""
        self.ahead.close()

    def _explained(self, shard: _Shard, contents: Sequence[Found] | None) -> _Shard:
        """Explain the examples of a shard, group by group."""
        self.reporter.begin_shard(shard.task.shard)
        groups = self._groups(shard.task, shard.entries)
        found = iter(contents or ())
        for i, group in enumerate(groups):
            following = groups[i + 1] if i + 1 < len(groups) else None
            self._explain_group(shard, group, list(islice(found, len(group))), following)
        shard.lease.at(NOWHERE)
        return shard

    @cached_property
    def _sealed(self) -> Ledger:
        """The ledger with the whole plan, which is written once all is listed."""
        return Ledger.open(self._out)

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest(self._out / MANIFEST)

    def _ledger(self, task: Task) -> Ledger:
        return task.ledger(self.ledger) if task.entries else self._sealed

    def _entries(self, task: Task) -> Sequence[Entry]:
        """Return the entries of a shard, up to the limit."""
        if task.entries:
            return task.entries
        return self._manifest.shard(task.shard)[: len(self._sealed.plan.ids(task.shard))]

    def _groups(self, task: Task, entries: Sequence[Entry]) -> list[Group]:
        first, size = self.ledger.plan.division.ids(task.shard).start, self.job.group
        examples = list(enumerate(entries, first))
        return [examples[start : start + size] for start in range(0, len(examples), size)]

    def _read_ahead(self, task: Task, following: Group | None) -> None:
        """Begin to read the next group: of this shard, or the first one of the next.

        Not where a worker died: whatever kills this one must kill it at its own place.
        """
        upcoming = self._upcoming() if following is None and not task.deaths else None
        if upcoming is not None and not upcoming.deaths:
            following = self._groups(upcoming, self._entries(upcoming))[0]
        if following is not None and not task.deaths:
            self.ahead.begin(following)

    def _written(self, shard: _Shard) -> Done:
        """Write the files of a shard that is explained."""
        task, ledger = shard.task, shard.ledger
        order = {name: i for i, name in enumerate(self.job.method_names)}
        shard.rows.sort(key=lambda row: (row.id, order[row.method]))
        rows, failures = shard.rows, shard.failures()
        figures = agreement_columns(self.job.method_names)
        index = index_bytes(rows, task.shard, self.job.check_names, figures, self.job.is_of_texts)
        contents = {ledger.index_path(task.shard): index}
        if self.job.store != "scores":
            contents = {ledger.shard_path(task.shard): shard_bytes(rows, tuple(order)), **contents}
        return ledger.finish(
            task.shard,
            contents,
            ok=len(shard.entries) - len(failures),
            failed=len(failures),
            again=shard.again,
            rows=shard.model_rows,
            seconds=tuple(round(row.seconds, 6) for row in rows),
            failures=tuple(failures[each] for each in sorted(failures)[:_FAILURES]),
            entries=entries_hash(shard.entries),
        )

    def _explain_group(self, shard: _Shard, examples: Group, contents: list[Found], following: Group | None) -> None:
        """Explain some examples at once; one by one where they killed workers before. Meanwhile the next are read.

        `contents`: the examples, if they were read; else empty.
        """
        methods = tuple(zip(self.job.method_names, self.job.methods, strict=True))
        place = 2 * examples[0][0]
        split = shard.is_lethal(place)
        shard.again |= split
        shard.lease.at(place)
        self.reporter.begin_group(len(examples))
        if not split:
            found = contents or self.ahead.take(examples)
            items = [item for (i, _), each in zip(examples, found, strict=True) if (item := self._item(shard, i, each))]
            if not contents:
                self._read_ahead(shard.task, following)
            for some in self._fitting(items):
                self._explain(shard, some, methods)
            explained = len(items)
        else:
            explained = sum(self._explain_alone(shard, *each, methods) for each in examples)
        add_agreement(shard.rows)
        self.reporter.end_group(explained, shard.model_rows, list(shard.failures().values()))

    def _explain_alone(self, shard: _Shard, example: int, entry: Entry, methods: Methods) -> bool:
        """Read and explain an example by itself, at its own place; whether it could be read."""
        place = 2 * example + 1
        if shard.is_lethal(place):
            error = ChildProcessError(f"{_MOST_DEATHS} workers died while they explained it")
            shard.fail(example, entry, self.job.method_names, error)
            return False
        shard.lease.at(place)
        item = self._item(shard, example, read_example(self.reader, entry))
        if item is not None:
            self._explain(shard, [item], methods)
        return item is not None

    def _fitting(self, items: Sequence[_Item]) -> list[list[_Item]]:
        """Split a group into those that are explained at once, in the order of their first examples."""
        found: dict[tuple[int, ...], list[_Item]] = {}
        for item in items:
            found.setdefault(self.reader.apart(item.opened), []).append(item)
        return list(found.values())

    def _item(self, shard: _Shard, example: int, found: Found) -> _Item | None:
        """Return the example with its class, or record why it fails: unreadable, or without a target."""
        entry = found.entry
        try:
            if found.error is not None:
                raise found.error
            label = self._class_of(entry.label)
            if self.job.target == LABEL and label is None:
                raise ValueError(
                    f"target: the label {entry.label!r} is no class of the model; "
                    "use one of its labels, or the number of a class: 0, 1, 2"
                )
        except Exception as error:  # noqa: BLE001  any error of a picture is recorded
            shard.again |= isinstance(error, OSError) and entry.size >= 0  # the file was there, and may be again
            shard.fail(example, entry, self.job.method_names, error)
            return None
        assert found.opened is not None
        return _Item(example, found.opened, label)

    def _class_of(self, label: str) -> int | None:
        """Find the class by the model's labels, as a number, or by the order of the run's labels."""
        if label in self.model.labels:
            return self.model.labels.index(label)
        if label.isdecimal():
            return int(label)
        # Asked last: the order of all labels is known once all is listed.
        return self._places.get(label) if label and not self.model.labels else None

    @cached_property
    def _places(self) -> dict[str, int]:
        """The classes by the order of the run's labels; empty if a label is a number."""
        labels = self._sealed.plan.labels
        if any(re.fullmatch(_NUMBER, label) for label in labels):
            return {}
        return {label: place for place, label in enumerate(labels)}

    def _explain(self, shard: _Shard, items: Sequence[_Item], methods: Methods) -> None:
        """Add the rows of all items and methods; after an error, of each item and then each method by itself.

        The error of a single item and method is recorded: models and methods may raise anything.
        """
        if not items:
            return
        try:
            self._add_rows(shard, items, methods)
            return
        except Exception as error:  # noqa: BLE001  models and methods raise anything
            shard.again |= is_out_of_memory(error)
            if len(items) == len(methods) == 1:
                shard.fail(items[0].id, items[0].entry, [methods[0][0]], error)
                return
        if len(items) > 1:
            for item in items:
                self._explain(shard, [item], methods)
        else:
            for method in methods:
                self._explain(shard, items, [method])

    def _add_rows(self, shard: _Shard, items: Sequence[_Item], methods: Methods) -> None:
        """Add the rows of all items and methods, or none. Raises as `explain` does."""
        options = self.job.options([item.label for item in items], self.rows)
        options["progress"] = self.reporter.add_pass
        inputs, options = self.reader.together([item.opened for item in items], options)
        with question_of(self.model, inputs, options) as question, Shared(several=len(methods) > 1) as shared:
            panel = answer(question, [method for _, method in methods])
            rows, spent = [], panel.forward_rows + panel.backward_rows
            for (name, method), a in zip(methods, panel.values(), strict=True):
                findings, seconds = self._findings(question, method, a, shared)
                spent += sum(each.forward_rows + each.backward_rows for each in findings.values())
                viewed = a.viewed().detach().cpu() if len(self.job.methods) > 1 else None
                for i, item in enumerate(items):
                    values, scale = stored(a, i, self.job.store)
                    facts = facts_of(a, i, self.model, item.label, findings, item.opened.notes) | {"scale": scale}
                    seen = None if viewed is None else viewed[i]
                    rows.append(Row(item.id, name, item.entry, facts, values, seen, seconds / len(items)))
        shard.rows += rows
        shard.model_rows += spent

    def _findings(
        self, question: Question, method: Method, a: Attribution, shared: Shared
    ) -> tuple[dict[str, Finding], float]:
        """Return the checks' findings by name, and the seconds that the maps and the checks took."""
        if not self.job.checks:
            return {}, a.seconds
        start = time.perf_counter()
        with open_case(question, a, method, as_mask(self.job.mask, a.inputs), shared) as case:
            found = [measure(check, case) for check in self.job.checks]
        return dict(zip(self.job.check_names, found, strict=True)), a.seconds + time.perf_counter() - start
