"""A worker: holds the model, takes a shard at a time, and writes what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..answer import answer
from ..base.attribution import Attribution
from ..checks.case import open_case
from ..engine.runner import is_out_of_memory
from ..evaluation.check import as_mask, measure
from ..evaluation.findings import Finding
from ..methods import Method
from ..models.pictures import open_image
from ..question.question import Question, question_of
from .identity import differences, model_identity
from .job import LABEL, Job
from .ledger import MANIFEST, Done, Lease, Ledger
from .manifest import Entry, Manifest
from .rows import Row, facts_of, index_bytes, shard_bytes, stored

_DEATHS = 2  # of workers at one place, before a group is taken apart, and before an example is given up
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"  # 1, and what was to be one, such as 1.0 or -1
_TOLD = 3  # failures that a record quotes


@dataclass(frozen=True)
class Task:
    """A shard to do, and where workers died that tried."""

    shard: int
    deaths: tuple[int, ...] = ()


@dataclass
class _Shard:
    """What has come of a shard so far."""

    lease: Lease
    task: Task
    rows: list[Row] = field(default_factory=list)
    model_rows: int = 0
    again: bool = False

    def died(self, place: int) -> bool:
        return self.task.deaths.count(place) >= _DEATHS

    def fail(self, example: int, entry: Entry, methods: Sequence[str], error: BaseException) -> None:
        self.again |= _of_memory(error)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        self.rows += [Row(example, method, entry, error=text) for method in methods]


@dataclass(frozen=True)
class _Item:
    """An example that could be read: `pixels` `(1, 3, H, W)`; `label` its class, where that is known; `notes` on what
    was converted."""

    id: int
    entry: Entry
    pixels: Tensor
    label: int | None
    notes: tuple[str, ...]


class Worker:
    """One model in one process. Raises what loading it raises, ValueError where it isn't the model of the plan."""

    def __init__(self, job: Job, out: Path) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.ledger, self.manifest = job, Ledger.open(out), Manifest(out / MANIFEST)
        self.model = job.load()
        self.rows = job.rows(self.model)
        found = model_identity(self.model)
        changed = differences({name: self.ledger.plan.settings[name] for name in found}, found)
        if changed:
            raise ValueError(f"model: {self.model.name} is another than that of the run's plan: {'; '.join(changed)}")

    def work(self, task: Task) -> Done | None:
        """Do the shard; its record, also where another worker had done it; None where one is at it now.

        What goes wrong with an example is recorded and the rest goes on. Raises OSError where the files cannot be
        written: that is no example's fault.
        """
        with self.ledger.lease(task.shard) as lease:
            if lease is None:
                return None
            return self.ledger.done(task.shard) or self._do(task, lease)

    def _do(self, task: Task, lease: Lease) -> Done:
        shard = _Shard(lease, task)
        ids = self.ledger.plan.ids(task.shard)
        examples = list(zip(ids, self.manifest.shard(task.shard)[: len(ids)], strict=True))
        for start in range(0, len(examples), self.job.group):
            self._group(shard, examples[start : start + self.job.group])
        lease.at(-1)
        order = {name: i for i, name in enumerate(self.job.method_names)}
        rows = sorted(shard.rows, key=lambda row: (row.id, order[row.method]))
        failures = {row.id: f"{row.entry.path}: {row.error}" for row in reversed(rows) if row.error}
        contents = {
            self.ledger.index_path(task.shard): index_bytes(rows, task.shard, tuple(order), self.job.check_names)
        }
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
            failures=tuple(failures[each] for each in sorted(failures)[:_TOLD]),
        )

    def _group(self, shard: _Shard, examples: Sequence[tuple[int, Entry]]) -> None:
        """Explain some examples at once; one by one where that fails, or killed workers before."""
        place = 2 * examples[0][0]
        apart = shard.died(place)
        shard.again |= apart
        shard.lease.at(place)
        left = [each for each in examples if not (apart and self._given_up(shard, *each))]
        items = [item for each in left if (item := self._read(shard, *each))]
        if not items or (not apart and self._tried(shard, items, self.job.named_methods) is None):
            return
        for item in items:
            if apart:
                shard.lease.at(2 * item.id + 1)
            self._single(shard, item)

    def _given_up(self, shard: _Shard, example: int, entry: Entry) -> bool:
        """Whether workers die of this example alone."""
        if not shard.died(2 * example + 1):
            return False
        error = ChildProcessError(f"{_DEATHS} workers died while they explained it")
        shard.fail(example, entry, self.job.method_names, error)
        return True

    def _single(self, shard: _Shard, item: _Item) -> None:
        """One example: all methods at once, and where that fails each by itself."""
        if self._tried(shard, [item], self.job.named_methods) is None:
            return
        for name, method in self.job.named_methods:
            error = self._tried(shard, [item], [(name, method)])
            if error is not None:
                shard.fail(item.id, item.entry, [name], error)

    def _tried(self, shard: _Shard, items: Sequence[_Item], methods: Sequence[tuple[str, Method]]) -> Exception | None:
        """Explain, and return what went wrong, which belongs to the examples: models and methods raise anything."""
        try:
            self._explain(shard, items, methods)
        except Exception as error:  # noqa: BLE001
            shard.again |= _of_memory(error)
            return error
        return None

    def _read(self, shard: _Shard, example: int, entry: Entry) -> _Item | None:
        try:
            pixels, _, picture = self.model.prepare(open_image(entry.read(), name=entry.path))
            label = self._class_of(entry.label)
            if self.job.target == LABEL and label is None:
                raise ValueError(
                    f"target: the label {entry.label!r} is no class of the model; "
                    "use one of its labels, or the number of a class: 0, 1, 2"
                )
        except Exception as error:  # noqa: BLE001  whatever is wrong with a picture is recorded
            shard.again |= isinstance(error, OSError) and bool(entry.content)  # it was there, and may be again
            shard.fail(example, entry, self.job.method_names, error)
            return None
        return _Item(example, entry, pixels, label, picture.notes)

    def _class_of(self, label: str) -> int | None:
        """By the model's labels; a number is itself; without either the place in the order of the run's labels."""
        if label in self.model.labels:
            return self.model.labels.index(label)
        if label.isdecimal():
            return int(label)
        return self._places.get(label)

    @cached_property
    def _places(self) -> dict[str, int]:
        """Classes by the order of the run's labels: for a model without labels, and if none of them is a number."""
        labels = self.ledger.plan.labels
        if self.model.labels or any(re.fullmatch(_NUMBER, label) for label in labels):
            return {}
        return {label: place for place, label in enumerate(labels)}

    def _explain(self, shard: _Shard, items: Sequence[_Item], methods: Sequence[tuple[str, Method]]) -> None:
        """Rows of all items and methods, or none and what `explain` raises."""
        pixels = torch.cat([item.pixels for item in items])
        with question_of(self.model, pixels, self.job.options([item.label for item in items], self.rows)) as question:
            self._answer(shard, items, methods, question)

    def _answer(
        self, shard: _Shard, items: Sequence[_Item], methods: Sequence[tuple[str, Method]], question: Question
    ) -> None:
        panel = answer(question, [method for _, method in methods])
        rows, spent = [], panel.forward_rows + panel.backward_rows
        for (name, method), a in zip(methods, panel.values(), strict=True):
            findings, seconds = self._checked(question, method, a)
            spent += sum(each.forward_rows + each.backward_rows for each in findings)
            rows += [self._row(item, i, a, name, findings, seconds / len(items)) for i, item in enumerate(items)]
        shard.rows += rows
        shard.model_rows += spent

    def _checked(self, question: Question, method: Method, a: Attribution) -> tuple[list[Finding], float]:
        """The checks' findings, and the seconds that the maps and the checks took."""
        if not self.job.checks:
            return [], a.seconds
        start = time.perf_counter()
        with open_case(question, a, method, as_mask(self.job.mask, a.inputs)) as case:
            found = [measure(check, case) for check in self.job.checks]
        return found, a.seconds + time.perf_counter() - start

    def _row(
        self, item: _Item, i: int, a: Attribution, method: str, findings: Sequence[Finding], seconds: float
    ) -> Row:
        named = dict(zip(self.job.check_names, findings, strict=True))
        values, scale = stored(a, i, self.job.store)
        facts = facts_of(a, i, self.model, item.label, named, item.notes) | {"scale": scale}
        return Row(item.id, method, item.entry, facts, values, seconds)


def _of_memory(error: BaseException) -> bool:
    """Whether another try, with more memory or in better health, may go well."""
    return is_out_of_memory(error) or isinstance(error, ChildProcessError)
