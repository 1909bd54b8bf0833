"""The verdicts of an audit: do the maps of a class stay in one place, whatever the pictures show?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base.version import __version__, versions
from .clusters import features_of
from .places import Place, place_of
from .stored import Run
from .summary import Rows, Share, accuracies, failing_maps, rows_of
from .surprise import FEWEST, SHUFFLES, TOLERANCE, Group, judged_classes, surprising_groups

ALPHA = 0.05
_MOST = 2000  # maps that are compared: time and memory grow with the square of this number


@dataclass(frozen=True)
class Verdict:
    """The verdict on the most compact group of maps of one class, by one method.

    `found`: whether it is more compact than chance and the tolerance allow. `p`: the chance of a group as surprising
    somewhere in the audit, if labels said nothing of the maps; corrected for all sizes, classes and methods.
    `compactness`, `expected`: the mean correlation with the medoid, here and in shuffled classes. `ids`: the group's
    examples, the medoid first; `compared`: the maps of the class that were compared. `place`: where they have their
    relevance.
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

    @property
    def medoid(self) -> int:
        return self.ids[0]

    @property
    def sentence(self) -> str:
        """Say what was found, and what to look at."""
        figures = f"correlation {self.compactness:.2f}, {self.expected:.2f} in shuffled classes, p = {self.p:.3g}"
        if not self.found:
            return f"no group of maps of {self.label!r} is surprisingly alike ({figures})"
        where = "spread over the picture" if self.place.words == "whole picture" else f"at the {self.place.words}"
        return (
            f"{len(self.ids)} of {self.compared} maps of {self.label!r} are alike: their relevance lies {where}, half "
            f"of it on {self.place.area:.0%} of the picture ({figures}). Look there, at the medoid first: if it is not "
            "the object, it may be a tag, a border or a watermark. Cover or remove it, and count how often the model "
            "is still right"
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
    tolerance: float
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
            names = dict.fromkeys(f"{each.label!r} ({each.place.words})" for each in self.found)
            return (
                f"FOUND: maps that stay in one place, in {', '.join(names)}; false-alarm rate {self.alpha:.0%} where "
                "labels say nothing of the maps"
            )
        if self.verdicts:
            classes = len({each.label for each in self.verdicts})
            return (
                f"CLEAR: in none of {classes} classes maps are surprisingly alike; rare or moving shortcuts, and those "
                "of colour, may be missed"
            )
        return f"NO VERDICT: {'; '.join(self.notes)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return {
            "limelight": __version__,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "alpha": self.alpha,
            "tolerance": self.tolerance,
            "seed": self.seed,
            "shuffles": self.shuffles,
            "accuracy": [asdict(each) for each in self.accuracy],
            "failing maps": [asdict(each) for each in self.failing],
            "verdicts": [asdict(each) | {"sentence": each.sentence} for each in self.verdicts],
            "notes": list(self.notes),
            "examples": asdict(self.run.counts),
            "versions": versions(),
        }


def audit_of(done: Run, alpha: float = ALPHA, tolerance: float = TOLERANCE, shuffles: int = SHUFFLES) -> Audit:
    """Judge the maps of a finished run, without explaining anything. Raises as `audit` does."""
    rows = rows_of(done)
    if not len(rows["id"]):
        raise ValueError(f"images: no picture could be explained: {'; '.join(done.status.failures[-1:])}")
    if not any(rows["label"]):
        raise ValueError(
            "images: no picture has a label, and an audit compares classes; "
            "use a folder of class folders, or a table with a column 'label'"
        )
    seed = int(done.settings["seed"])
    verdicts, notes = list[Verdict](), dict[str, None]()
    for method in done.methods:
        here = np.flatnonzero((rows["method"] == method) & (rows["label"] != ""))
        if not len(here):
            notes[f"{method}: no maps"] = None
            continue
        kept, features, remarks = _compared(done, rows, here, seed)
        labels = [str(rows["label"][i]) for i in kept]
        notes |= dict.fromkeys(f"{method}: {each}" for each in (*remarks, *_not_judged(labels, rows["label"][here])))
        groups = surprising_groups(features.numpy(), labels, alpha / len(done.methods), tolerance, seed, shuffles)
        counts = Counter(labels)
        for group in groups:
            ids = tuple(int(rows["id"][kept[i]]) for i in group.members)
            verdicts.append(_verdict(method, group, ids, counts[group.name], features, alpha, len(done.methods)))
    failed = done.counts.failed
    remarks = (
        [f"pictures that could not be explained: {failed}, such as {'; '.join(done.status.failures[-1:])}"]
        if failed
        else []
    )
    return Audit(
        done,
        alpha,
        tolerance,
        seed,
        shuffles,
        tuple(each for each in accuracies(rows, rows["label"]) if each.total),
        tuple(failing_maps(rows, done)),
        tuple(sorted(verdicts, key=lambda each: (each.p, each.expected - each.compactness))),
        (*remarks, *notes),
    )


def _verdict(
    method: str, group: Group, ids: tuple[int, ...], compared: int, features: Tensor, alpha: float, methods: int
) -> Verdict:
    p = min(1.0, group.p * methods)
    place = place_of(features[list(group.members)])
    return Verdict(method, group.name, p <= alpha, p, group.compactness, group.expected, ids, compared, place)


def _compared(done: Run, rows: Rows, here: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], Tensor, list[str]]:
    """Choose the rows whose maps are compared; return them, their features, and remarks on the others."""
    remarks = []
    _, first = np.unique(rows["content"][here].astype(np.str_), return_index=True)
    if len(first) < len(here):
        remarks.append(f"pictures that are copies of others, byte for byte, and do not count: {len(here) - len(first)}")
    here = here[np.sort(first)]
    labels = rows["label"][here].astype(np.str_)
    most = max(FEWEST, _MOST // len(np.unique(labels)))
    random = np.random.default_rng(seed)
    chosen = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    kept = np.sort(np.concatenate([random.permutation(each)[:most] for each in chosen]))
    if len(kept) < len(here):
        remarks.append(f"{len(kept)} of {len(here)} maps are compared, at most {most} of a class, drawn at random")
    here = here[kept]
    features = _features(done, rows, here)
    flat = ~features.any(1)
    if bool(flat.any()):
        remarks.append(
            f"maps without positive relevance, or with the same everywhere, which are left out: {int(flat.sum())}"
        )
    return here[~flat.numpy()], features[~flat], remarks


def _features(done: Run, rows: Rows, here: NDArray[np.int64]) -> Tensor:
    """Return the features of the maps of some rows of one method, with one shard in memory at a time."""
    found = []
    for shard in dict.fromkeys(rows["shard"][here].tolist()):
        inside = here[rows["shard"][here] == shard]
        kept = done.shard_maps(int(shard), str(rows["method"][inside[0]]))
        maps = kept[torch.tensor([int(each) for each in rows["offset"][inside]])].double()
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
