"""The verdicts of an audit: do the maps of a class stay in one place, and does the model need what is there?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base.types import Progress
from ..base.version import __version__, versions
from ..models.catalogue import AnyImageModel
from .clusters import features_of
from .columns import Groups, Places, Rows, rows_of
from .covering import FEWEST as FEWEST_RIGHT, Cover, Maps, Pictures, recounted
from .places import Place, place_of
from .recount import Recount
from .stored import Run
from .summary import Share, accuracies, check_columns, failing_maps
from .surprise import FEWEST, SHUFFLES, Group, judged_classes, surprising_groups

ALPHA = 0.05
_MOST_COVERED = 24  # places, of the most surprising groups; each counts in the correction of p
_COLUMNS = ("id", "method", "label", "correct", "content", "shard", "offset")
_MOST = 2000  # maps that are compared: time and memory grow with the square of this number


@dataclass(frozen=True)
class Verdict:
    """The verdict on the most compact group of maps of one class, by one method.

    `found`: whether covering the place of the maps changes predictions more than chance allows, and the pictures look
    otherwise there. `p`: the chance of a group as surprising somewhere in the audit, if labels said nothing of the
    maps; corrected for all sizes, classes and methods. `compactness`, `expected`: the mean correlation with the medoid,
    here and in shuffled classes. `ids`: the group's examples, the medoid first; `compared`: the maps of the class that
    were compared. `place`: where they have their relevance. `suspicious`: whether p is at most the level. `cover`: what
    covering the place changes, None where the model gets too few pictures right, and where the maps are not suspicious
    and the place looks as in the other classes.
    """

    method: str
    label: str
    found: bool
    p: float
    compactness: float
    expected: float
    ids: tuple[int, ...]
    compared: int
    place: Place
    suspicious: bool
    cover: Cover | None = None

    @property
    def medoid(self) -> int:
        return self.ids[0]

    @property
    def words(self) -> str:
        """The place in words: the one that was covered, else that of the group."""
        return self.cover.place.words if self.cover else self.place.words

    @property
    def outcome(self) -> str:
        """Return "FOUND", "not found", or "not counted" where the maps are suspicious and nothing was covered."""
        return "FOUND" if self.found else "not counted" if self.suspicious and not self.cover else "not found"

    @property
    def sentence(self) -> str:
        """Say what was found, and what to look at."""
        figures = f"correlation {self.compactness:.2f}, {self.expected:.2f} in shuffled classes, p = {self.p:.3g}"
        where = "spread over the picture" if self.place.words == "whole picture" else f"at the {self.place.words}"
        if self.suspicious:
            alike = f"{len(self.ids)} of {self.compared} maps of {self.label!r} are alike {where} ({figures})"
        else:
            alike = f"no group of maps of {self.label!r} is surprisingly alike ({figures})"
        if self.cover is None:
            return f"{alike}; nothing was covered, see the notes" if self.suspicious else alike
        if not self.found:
            but = (
                "but the model does not need that place" if self.suspicious else "and the model needs no place of them"
            )
            return f"{alike}, {but} more than chance allows: {self.cover.sentence}"
        return (
            f"{alike}, {'and' if self.suspicious else 'but'} {self.cover.sentence}. Look there, at the medoid first: "
            "if it is not the object, it may be a tag, a border or a watermark"
        )


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of `audit`: the run, and a verdict on each class and method.

    `alpha`: the rate of false alarms over the whole audit. `accuracy`: of all examples, then of each class. `failing`:
    the maps that fail a hard test. `verdicts`: the smallest p first. `notes`: what was not judged or not compared, and
    why.
    """

    run: Run
    alpha: float
    seed: int
    shuffles: int
    accuracy: tuple[Share, ...]
    failing: tuple[Share, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def found(self) -> tuple[Verdict, ...]:
        """The verdicts that found something."""
        return tuple(each for each in self.verdicts if each.found)

    @property
    def outcome(self) -> str:
        """Return "found", "clear", or "no verdict" where no class could be judged."""
        return "found" if self.found else "clear" if self.verdicts else "no verdict"

    @property
    def sentence(self) -> str:
        """Sum up the audit in one sentence."""
        if self.found:
            names = dict.fromkeys(f"{each.label!r} ({each.words})" for each in self.found)
            return (
                f"FOUND: the model needs one place of the picture, in {', '.join(names)}; false-alarm rate at most "
                f"{self.alpha:.0%} where labels say nothing of maps and changes"
            )
        if self.verdicts:
            classes = len({each.label for each in self.verdicts})
            return (
                f"CLEAR: in none of {classes} classes the model was seen to need one place of the picture; rare or "
                "moving shortcuts, and those of colour, may be missed"
            )
        return f"NO VERDICT: {'; '.join(self.notes)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return {
            "limelight": __version__,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "alpha": self.alpha,
            "seed": self.seed,
            "shuffles": self.shuffles,
            "accuracy": [asdict(each) for each in self.accuracy],
            "failing maps": [asdict(each) for each in self.failing],
            "verdicts": [asdict(each) | {"sentence": each.sentence, **_sentence(each.cover)} for each in self.verdicts],
            "notes": list(self.notes),
            "examples": asdict(self.run.counts),
            "versions": versions(),
        }


def audit_of(
    done: Run,
    model: AnyImageModel,
    alpha: float = ALPHA,
    shuffles: int = SHUFFLES,
    progress: Progress | None = None,
    on_place: Callable[[str], None] | None = None,
) -> Audit:
    """Judge the maps of a finished run of this model, without explaining anything.

    `progress`, `on_place`: as for `audit`. Raises as `audit` does.
    """
    rows = rows_of(done, (*_COLUMNS, *check_columns(done)))
    if not len(rows):
        raise ValueError(f"images: no picture could be explained: {'; '.join(done.status.failures[-1:])}")
    classes, correct, ids = rows.groups("label"), rows.numbers("correct"), rows.numbers("id").values
    if not any(classes.names):
        raise ValueError(
            "images: no picture has a label, and an audit compares classes; "
            "use a folder of class folders, or a table with a column 'label'"
        )
    seed = int(done.settings["seed"])
    notes, compared = dict[str, None](), dict[str, Maps]()
    for method in done.methods:
        here = np.flatnonzero(rows.groups("method").are(method) & ~classes.are(""))
        if not len(here):
            notes[f"{method}: no maps"] = None
            continue
        kept, features, remarks = _compared(done, method, rows, classes, here, seed)
        labels = classes.at(kept)
        notes |= dict.fromkeys(
            f"{method}: {each}" for each in (*remarks, *_not_judged(labels.tolist(), classes.at(here)))
        )
        right = (correct.known & correct.values)[kept]
        compared[method] = Maps(features, labels, ids[kept], right)
    found, remarks = judged(compared, Recount(done, model, progress), alpha, seed, shuffles, on_place)
    failed = done.counts.failed
    if failed:
        failures = "; ".join(done.status.failures[-1:])
        remarks = [f"pictures that could not be explained: {failed}, such as {failures}", *remarks]
    return Audit(
        done,
        alpha,
        seed,
        shuffles,
        tuple(each for each in accuracies(rows, classes) if each.total),
        tuple(failing_maps(rows, done)),
        tuple(found),
        (*remarks, *notes),
    )


def judged(
    compared: Mapping[str, Maps],
    pictures: Pictures,
    alpha: float = ALPHA,
    seed: int = 0,
    shuffles: int = SHUFFLES,
    on_place: Callable[[str], None] | None = None,
) -> tuple[list[Verdict], list[str]]:
    """Judge the maps of each method, then their places; return verdicts and remarks."""
    verdicts = [
        _verdict(method, group, maps, alpha, len(compared))
        for method, maps in compared.items()
        for group in surprising_groups(
            maps.features.numpy(), maps.labels.tolist(), alpha / len(compared), seed, shuffles
        )
    ]
    verdicts.sort(key=lambda each: (each.p, each.expected - each.compactness))
    verdicts, remarks = _counted(verdicts, compared, pictures, alpha, seed, on_place)
    return sorted(verdicts, key=lambda each: (not each.found, each.cover.p if each.cover else 1.0)), remarks


def _verdict(method: str, group: Group, maps: Maps, alpha: float, methods: int) -> Verdict:
    p = min(1.0, group.p * methods)
    members = list(group.members)
    ids, count = tuple(maps.ids[members].tolist()), int((maps.labels == group.name).sum())
    place = place_of(maps.features[members])
    return Verdict(method, group.name, False, p, group.compactness, group.expected, ids, count, place, p <= alpha)


def _counted(
    verdicts: Sequence[Verdict],
    compared: Mapping[str, Maps],
    pictures: Pictures,
    alpha: float,
    seed: int,
    on_place: Callable[[str], None] | None,
) -> tuple[list[Verdict], list[str]]:
    """Cover the places, those of the most surprising maps first, and say which were not covered.

    Maps that are not suspicious may still lie where the model needs one place, among others. Theirs is covered only
    where there is something to see.
    """
    tested = verdicts[:_MOST_COVERED]
    few, found = dict[str, None](), list[Verdict]()
    left = sum(each.suspicious for each in verdicts[_MOST_COVERED:])
    for each in verdicts:
        if each not in tested:
            found.append(each)
            continue
        if on_place:
            on_place(f"looking at place {tested.index(each) + 1} of {len(tested)}: {each.label}, {each.method}")
        visible = 1.0 if each.suspicious else alpha
        cover = recounted(compared[each.method], each.label, pictures, len(tested), seed, visible)
        if cover is None and each.suspicious:
            few[repr(each.label)] = None
        found.append(replace(each, cover=cover, found=cover is not None and cover.p <= alpha))
    remarks = []
    if few:
        remarks.append(
            f"maps of {', '.join(few)} are alike, but nothing was covered: that takes {FEWEST_RIGHT} pictures of a "
            f"class that the model gets right, and {FEWEST_RIGHT} of all others"
        )
    if left:
        remarks.append(f"suspicious groups of maps whose place was not covered: {left}, after the first {len(tested)}")
    return found, remarks


def _sentence(cover: Cover | None) -> dict[str, str]:
    return {} if cover is None else {"cover sentence": cover.sentence}


def _compared(
    done: Run, method: str, rows: Rows, classes: Groups, here: Places, seed: int
) -> tuple[Places, Tensor, list[str]]:
    """Choose the rows whose maps are compared; return them, their features, and remarks on the others."""
    remarks = []
    _, first = np.unique(rows.groups("content").codes[here], return_index=True)
    if len(first) < len(here):
        remarks.append(f"pictures that are copies of others, byte for byte, and do not count: {len(here) - len(first)}")
    here = here[np.sort(first)]
    labels = classes.at(here)
    most = max(FEWEST, _MOST // len(np.unique(labels)))
    random = np.random.default_rng(seed)
    chosen = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    kept = np.sort(np.concatenate([random.permutation(each)[:most] for each in chosen]))
    if len(kept) < len(here):
        remarks.append(f"{len(kept)} of {len(here)} maps are compared, at most {most} of a class, drawn at random")
    here = here[kept]
    features = _features(done, method, rows, here)
    flat = ~features.any(1)
    if bool(flat.any()):
        remarks.append(
            f"maps without positive relevance, or with the same everywhere, which are left out: {int(flat.sum())}"
        )
    return here[~flat.numpy()], features[~flat], remarks


def _features(done: Run, method: str, rows: Rows, here: Places) -> Tensor:
    """Return the features of the maps of some rows of one method, with one shard in memory at a time."""
    found = []
    shards, offsets = rows.numbers("shard").values[here], rows.numbers("offset").values[here]
    for shard in dict.fromkeys(shards.tolist()):
        maps = done.shard_maps(shard, method, offsets[shards == shard].tolist()).double()
        found.append(features_of(maps.sum(1) if maps.ndim == 4 else maps))
    return torch.cat(found)


def _not_judged(compared: Sequence[str], labels: NDArray[Any]) -> Iterator[str]:
    """Say which classes cannot be judged, and why."""
    counts = {str(name): compared.count(name) for name in sorted(set(labels))}
    if len(counts) < 2:
        yield f"all pictures are of one class, {next(iter(counts))!r}, and an audit compares classes; give at least two"
        return
    judged = judged_classes(compared)
    few = [f"{name!r} ({count})" for name, count in counts.items() if name not in judged]
    if few:
        more = f" and {len(few) - 8} more" if len(few) > 8 else ""
        yield (
            f"too few different maps to judge {', '.join(few[:8])}{more}: "
            f"it takes {FEWEST} of a class and {FEWEST} of all others"
        )
