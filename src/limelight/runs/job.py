"""What a run is asked to do: the objects themselves for the workers, and their texts as the identity of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import PIL
import torch
from torch import Tensor

from ..base.version import versions
from ..checks import Check
from ..engine.runner import MOST_ROWS
from ..methods import Method
from ..models.catalogue import ImageModel, load_model
from ..question.baselines import Baseline
from ..question.question import Options
from ..question.targets import Target
from .identity import described, model_identity

Store = Literal["values", "heatmap-float16", "scores"]
STORES: tuple[Store, ...] = ("values", "heatmap-float16", "scores")
LABEL = "label"
"""The target that asks about each example's own label."""
_MANY = 4  # times the rows of large pictures; beyond it, passes of small ones were slower again


@dataclass(frozen=True)
class Job:
    """Everything a worker needs; travels to it by pickle.

    `model` is a name, which each worker loads, or the model itself. `target` None is each picture's first class.
    `group` pictures are explained at once, and `rows_per_pass` rows run at once, on `threads` threads of `device`:
    all of them part of the run, because the last bits of a result depend on them.
    """

    images: str
    model: str | ImageModel
    weights: str | None
    methods: tuple[Method, ...]
    checks: tuple[Check, ...]
    target: int | Literal["label"] | Target | None
    baseline: Baseline
    layer: str | None
    seed: int
    store: Store
    shard_size: int
    group: int
    rows_per_pass: int | None
    threads: int
    device: str
    limit: int | None
    draws_of: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        """Raises ValueError that names the argument."""
        if not self.methods:
            raise ValueError("methods: none; name at least one")
        if self.store not in STORES:
            raise ValueError(f"store: {self.store!r}; use {', '.join(map(repr, STORES))}")
        if isinstance(self.target, str) and self.target != LABEL:
            raise ValueError(f"target: {self.target!r}; use the number of a class, a target, {LABEL!r} or None")
        if isinstance(self.target, Target) and self.target.per_example is not None:
            raise ValueError(f"target: {self.target!r} is written for {self.target.per_example} examples; give one")
        if self.draws_of is not None and len(self.draws_of) != 1:
            raise ValueError(f"draws_of: {len(self.draws_of)} examples; a run takes one, for all pictures")
        if self.mask is not None and self.mask.ndim != 2:
            raise ValueError(f"mask: shape {tuple(self.mask.shape)}; a run takes one region (H, W), for all pictures")
        for name in ("shard_size", "group", "rows_per_pass", "threads", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; use 1 or more")
        if len(set(self.method_names)) < len(self.methods) or len(set(self.check_names)) < len(self.checks):
            raise ValueError("methods, checks: the same one twice; name each once")

    def options(self, labels: Sequence[int | None], rows: int | None) -> Options:
        """What `explain` takes for pictures of these labels."""
        found: Options = {
            "target": labels if self.target == LABEL else self.target,
            "baseline": self.baseline,
            "layer": self.layer,
            "seed": self.seed,
            "rows_per_pass": rows,
        }
        return found if self.draws_of is None else {**found, "draws_of": self.draws_of}

    def load(self) -> ImageModel:
        """The model, in eval mode on the device. Raises ValueError where torch has no such device here."""
        try:
            torch.empty(0, device=self.device)
        except (AssertionError, RuntimeError) as error:  # a build without CUDA asserts
            raise ValueError(f"device: {self.device!r} cannot be used here ({error}); use 'cpu'") from error
        if isinstance(self.model, str):
            return load_model(self.model, weights=self.weights, device=self.device)
        return self.model.eval().to(self.device)

    @contextmanager
    def model_lent(self) -> Iterator[None]:
        """Give a model that is no name back in the modes and on the device in which it came."""
        if isinstance(self.model, str):
            yield
            return
        modes = [(module, module.training) for module in self.model.modules()]
        device = next(self.model.network.parameters(), self.model.mean).device
        try:
            yield
        finally:
            self.model.to(device)
            for module, training in modes:
                module.training = training

    def rows(self, model: ImageModel) -> int | None:
        """Rows of a pass: as asked; on the CPU as many as have the pixels of MOST_ROWS of 224 x 224, 32 at most.

        Fixed for the run, and not chosen by the memory of each worker's machine, so that all write the same bits.
        """
        kind = self.device.partition(":")[0]
        most = MOST_ROWS.get(kind)
        if self.rows_per_pass or most is None or kind != "cpu":
            return self.rows_per_pass or most
        return most * max(1, min(_MANY, 224**2 // model.preprocessing.size**2))

    @property
    def method_names(self) -> tuple[str, ...]:
        """Names for columns and files."""
        return _names(self.methods)

    @property
    def check_names(self) -> tuple[str, ...]:
        return _names(self.checks)

    @property
    def named_methods(self) -> tuple[tuple[str, Method], ...]:
        return tuple(zip(self.method_names, self.methods, strict=True))

    def settings(self, model: ImageModel) -> dict[str, Any]:
        """All that decides the results, as plain values under the names of the options."""
        found = {
            "images": self.images,
            "model": self.model if isinstance(self.model, str) else model.name,
            **model_identity(model),
            "method": [described(method) for method in self.methods],
            "check": [described(check) for check in self.checks],
            "target": described(self.target) if isinstance(self.target, Target) else self.target,
            "baseline": described(self.baseline),
            "layer": self.layer,
            "seed": self.seed,
            "store": self.store,
            "shard_size": self.shard_size,
            "group": self.group,
            "rows_per_pass": self.rows(model),
            "threads": self.threads,
            "device": self.device,
            "limit": self.limit,
            "preprocessing": asdict(model.preprocessing),
            "versions": {**versions(), "pillow": PIL.__version__},
        }
        # Named only where given, so that runs begun before these options go on.
        found |= {name: described(given) for name in ("draws_of", "mask") if (given := getattr(self, name)) is not None}
        plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as when it is read again
        return plain


def _names(several: Sequence[Method | Check]) -> tuple[str, ...]:
    """As typed, and whole where two share a name."""
    plain = [each.kebab() for each in several]
    return tuple(name if plain.count(name) == 1 else described(each) for name, each in zip(plain, several, strict=True))


def as_folder(output: str | Path) -> Path:
    """The run's folder. Raises ValueError for what is no place on a file system of this machine."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(output), re.IGNORECASE):  # as a Path, s3://a has lost a slash
        raise ValueError(f"output: {str(output)!r}; use a folder on this machine, or one that all machines mount")
    return Path(output).absolute()  # also for pyarrow, which takes other paths with a colon for URLs
