"""A worker: holds the model, takes a shard at a time, and writes its results."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
from .manifest import Entry, Manifest
from .rows import Row, facts_of, index_bytes, shard_bytes, stored

_MOST_DEATHS = 2  # of workers at one place; then the group is split, or the example fails
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"  # 1, and near misses such as 1.0 or -1
_FAILURES = 3  # that a record quotes
Methods = Sequence[tuple[str, Method]]


@dataclass(frozen=True)
class Task:
    """A shard to do, and the places where earlier workers died in it."""

    shard: int
    deaths: tuple[int, ...] = ()


@dataclass
class _Shard:
    """The results of a shard so far."""

    lease: Lease
    task: Task
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
    """One model in one process; `send` receives the work in hand after the first pass, and then now and then.

    Raises what loading the model raises, ValueError where the run's plan has another model.
    """

    def __init__(self, job: Job, out: PurePath, send: Callable[[InHand], None] = lambda in_hand: None) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.ledger, self.manifest = job, Ledger.open(out), Manifest(out / MANIFEST)
        self.model = job.load()
        self.rows, self.reader = job.rows(self.model), reader_of(job, self.model)
        self.reporter = Reporter(send, job.passes(self.model))
        found = model_identity(self.model)
        changed = differences({name: self.ledger.plan.settings[name] for name in found}, found)
        if changed:
            raise ValueError(f"model: {self.model.name} is another than that of the run's plan: {'; '.join(changed)}")

    def work(self, task: Task) -> Done | None:
        """Do the shard and return its record, or the record of a worker that did it before.

        Returns None where another worker holds the shard. An error of an example is recorded, and the others are still
        explained. Raises OSError where the files cannot be written.
        """
        with self.ledger.lease(task.shard, bool(task.deaths)) as lease:
            if lease is None:
                return None
            return self.ledger.checked_done(task.shard) or self._do(task, lease)

    def _do(self, task: Task, lease: Lease) -> Done:
        shard = _Shard(lease, task)
        self.reporter.begin_shard(task.shard)
        ids = self.ledger.plan.ids(task.shard)
        examples = list(zip(ids, self.manifest.shard(task.shard)[: len(ids)], strict=True))
        for start in range(0, len(examples), self.job.group):
            self._explain_group(shard, examples[start : start + self.job.group])
        lease.at(NOWHERE)
        order = {name: i for i, name in enumerate(self.job.method_names)}
        shard.rows.sort(key=lambda row: (row.id, order[row.method]))
        rows, failures = shard.rows, shard.failures()
        figures = agreement_columns(self.job.method_names)
        index = index_bytes(rows, task.shard, self.job.check_names, figures, self.job.is_of_texts)
        contents = {self.ledger.index_path(task.shard): index}
        if self.job.store != "scores":
            contents = {self.ledger.shard_path(task.shard): shard_bytes(rows, tuple(order)), **contents}
        return self.ledger.finish(
            task.shard,
            contents,
            ok=len(ids) - len(failures),
            failed=len(failures),
            again=shard.again,
            rows=shard.model_rows,
            seconds=tuple(round(row.seconds, 6) for row in rows),
            failures=tuple(failures[each] for each in sorted(failures)[:_FAILURES]),
        )

    def _explain_group(self, shard: _Shard, examples: Sequence[tuple[int, Entry]]) -> None:
        """Explain some examples at once; one by one where they killed workers before."""
        methods = tuple(zip(self.job.method_names, self.job.methods, strict=True))
        place = 2 * examples[0][0]
        split = shard.is_lethal(place)
        shard.again |= split
        shard.lease.at(place)
        self.reporter.begin_group(len(examples))
        items = [item for each in examples if (item := self._read(shard, *each, split))]
        if not split:
            for some in self._fitting(items):
                self._explain(shard, some, methods)
        else:
            for item in items:
                shard.lease.at(2 * item.id + 1)
                self._explain(shard, [item], methods)
        add_agreement(shard.rows)
        self.reporter.end_group(len(items), shard.model_rows, list(shard.failures().values()))

    def _fitting(self, items: Sequence[_Item]) -> list[list[_Item]]:
        """Split a group into those that are explained at once, in the order of their first examples."""
        found: dict[tuple[int, ...], list[_Item]] = {}
        for item in items:
            found.setdefault(self.reader.apart(item.opened), []).append(item)
        return list(found.values())

    def _read(self, shard: _Shard, example: int, entry: Entry, split: bool) -> _Item | None:
        """Read an example, or record why it fails: unreadable, without a target, or lethal for workers by itself."""
        try:
            if split and shard.is_lethal(2 * example + 1):
                raise ChildProcessError(f"{_MOST_DEATHS} workers died while they explained it")
            entry, content = self.reader.read(entry)
            opened = self.reader.open(entry, content)
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
        return _Item(example, opened, label)

    def _class_of(self, label: str) -> int | None:
        """Find the class by the model's labels, as a number, or by the order of the run's labels."""
        if label in self.model.labels:
            return self.model.labels.index(label)
        if label.isdecimal():
            return int(label)
        return self._places.get(label)

    @cached_property
    def _places(self) -> dict[str, int]:
        """The classes by the order of the run's labels; empty if the model has labels, or a label is a number."""
        labels = self.ledger.plan.labels
        if self.model.labels or any(re.fullmatch(_NUMBER, label) for label in labels):
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
