"""run(): explain and test every picture of a folder, a table or a bucket, and resume after any interruption."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Unpack, cast, get_args

from torch import nn

from ..base.devices import as_device
from ..base.progress import reporting
from ..base.types import Progress
from ..checks import Check
from ..engine.prepared import Prepared
from ..evaluation.check import as_checks
from ..explain import MethodLike, as_methods
from ..models.catalogue import Declaration, ImageModel
from ..models.declared import read_labels
from ..models.own_files import looks_like_a_path
from ..models.text import TextModel
from ..question.baselines import Baseline
from ..question.question import CheckOptions, require_options
from ..question.registries import as_baseline, as_target
from ..question.targets import Logit, Target
from .beginning import begin, compact, require_free
from .coordinate import Coordinator
from .crew import Crew, Inline, Local
from .job import LABEL, Job, Store, keeping
from .opening import is_remote
from .owner import owning
from .plan import Plan
from .status import Meter, Status
from .storage import as_place
from .stored import Run

Engine = Literal["local", "ray"]
_OF_ONE_CALL = ("given", "axes", "names")  # options of `explain` that belong to its inputs
ENGINES: tuple[Engine, ...] = get_args(Engine)


def run(
    images: str | os.PathLike[str],
    model: str | nn.Module,
    methods: MethodLike | Sequence[MethodLike],
    checks: Sequence[Check | type[Check] | str] = (),
    *,
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    store: Store = "values",
    engine: Engine = "local",
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    declared: Declaration | None = None,
    shard_size: int | None = None,
    group: int = 16,
    limit: int | None = None,
    text_column: str | None = None,
    white: float | None = None,
    elsewhere: bool = False,
    verify: bool = False,
    on_status: Callable[[Status], None] | None = None,
    **options: Unpack[CheckOptions],
) -> Run:
    """Explain and test every picture of `images`, or every text of a table, and write the results to a folder.

    The same call again resumes a run that was interrupted, and makes damaged files again. Results do not depend on the
    engine or the number of workers. They equal those of `explain()` on the single picture with the same seed: to
    rounding, since pictures share passes; to the bit with `group=1` and the same `rows_per_pass`.

    Args:
        images: a folder (subfolders are labels), a .csv or .parquet with a column `path` and perhaps `label`, a
            webdataset .tar, or any of these as a URL that fsspec opens (extra `cloud`).
        model: a name for `load_model`, which each worker loads, or a module that pickles; one that is no `ImageModel`
            gets its default preprocessing.
        methods, checks: as for `explain` and `check`.
        output: a folder on this machine, or for a cluster one that all its machines mount; or a URL such as
            `s3://bucket/run` (extra `cloud`), which one start at a time may write to.
        weights: a file for `load_model`.
        store: "values" keeps whole maps, "heatmap-float16" the sum over channels divided by the index's column
            `scale`, "scores" no maps.
        engine: "local" processes, or "ray" (extra `ray`): in the cluster that RAY_ADDRESS names, or one started here.
        workers: the number of workers; 0 works in this process. None is one process per core, or one on a GPU; with Ray
            one actor per core or GPU of the cluster.
        threads: the threads of each worker.
        device: where each worker runs its model, such as "cpu" or "cuda"; "auto" is the GPU where there is one.
        declared: what else `load_model` is told of a model given by name: labels, mean, std, size, channels, resize.
        shard_size: the examples that are written at once; a kill loses no more than these. None: 16 shards of 8, 16 of
            16, 16 of 32, 16 of 64, and then shards of 128; a run that was begun with another size keeps it.
        group: the pictures that are explained at once.
        limit: explain only the first `limit` pictures.
        text_column: explain the texts of this column of a table, .csv, .parquet or JSON lines (.jsonl), by a model of
            texts (`load_text_model`, or a `TextModel`). An example is called by the column `id`, else by its row.
        white: the value of white in pictures of more than 8 bits a channel; see `open_image`.
        elsewhere: let a table name pictures of another protocol or host than its own, and follow redirects of https to
            other hosts; else both are refused.
        verify: hash the files of all finished shards, not only their sizes, and make again what is damaged.
        on_status: called with the `Status` as the first pass ends, and then about once a second.
        options: the options of `explain` and `check`, the same for every picture. `target` "label" is each picture's
            own class; `layer` is a name; `draws_of` is one example and `mask` one region `(H, W)` for all pictures;
            `rows_per_pass` None is 8 on the CPU, up to 32 for small pictures; `progress` True counts model rows on
            standard error, a callable receives the rows since its last call, about once a second.

    Returns the opened run. Raises ValueError for wrong arguments and where `output` holds a run with other settings
    (it names each difference), DamagedFile where the plan or the manifest is damaged, RunStopped where the run cannot
    continue, such as on a full disk.
    """
    require_options(options, dict.fromkeys(each for each in CheckOptions.__annotations__ if each not in _OF_ONE_CALL))
    out = as_place(output)
    given: dict[str, Any] = {**options}
    listener = given.pop("progress", None)
    job = Job(
        images=_absolute(os.fspath(images)),
        model=as_run_model(model),
        weights=None if weights is None else str(Path(weights).absolute()),
        methods=tuple(as_methods(methods)),
        checks=as_checks(checks) if checks else (),
        target=_as_target(given.pop("target", None), model),
        baseline=_as_baseline(given.pop("baseline", None), text_column),
        layer=_as_layer(given.pop("layer", None)),
        store=store,
        shard_size=shard_size,
        group=group,
        threads=threads,
        device=str(as_device(device)),
        declared=_with_labels(declared or {}),
        limit=limit,
        text_column=text_column,
        white=white,
        elsewhere=elsewhere,
        **given,
    )
    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r}; use {' or '.join(map(repr, ENGINES))}")
    if workers is not None and (type(workers) is not int or workers < 0):
        raise ValueError(f"workers: {workers!r}; use 1 or more, 0 for this process, or None for a worker a core")
    if workers == 0 and engine == "ray":
        raise ValueError("workers: 0 is this process, which is no actor of Ray; use engine='local', or 1 or more")
    _require_reachable(out, engine, workers)
    require_free(out)
    with keeping(job.model), reporting(listener) as progress, owning(out) as owner:
        begun = begin(job, out, verify)
        meter = Meter(out, begun.counts, _listener(progress, on_status), config=begun.ledger.config, owner=owner)
        meter.failures += begun.failures
        with meter.watching():
            if begun.source.waiting or not begun.source.is_over:
                meter.report()
                crew = _crew(engine, workers, job, out, begun.plan)
                Coordinator(begun.ledger, crew, meter, begun.source).run()
                compact(begun)
    meter.report("finished")
    return Run(out)


def _listener(progress: Progress | None, on_status: Callable[[Status], None] | None) -> Callable[[Status], None]:
    """Make a listener that passes each status to `on_status`, and the model rows since the last one to `progress`."""
    before = 0

    def listen(status: Status) -> None:
        nonlocal before
        if progress and status.rows > before:
            progress(status.rows - before)
            before = status.rows
        if on_status:
            on_status(status)

    return listen


def _as_target(target: Any, model: str | nn.Module) -> int | Literal["label"] | Target | None:
    """Read a target for all pictures; it may be a label if the model is an `ImageModel`."""
    if target is None or target == LABEL:
        return cast(Literal["label"] | None, target)
    labels = model.labels if isinstance(model, ImageModel | TextModel) else ()
    found = as_target(target, 1, labels)
    plain = type(found) is Logit and isinstance(found.index, int)
    return found.index if plain else found  # type: ignore[attr-defined]


def _as_baseline(baseline: Any, text_column: str | None) -> Baseline | None:
    """Read the baseline; of texts None is the model's own, and of pictures black."""
    if baseline is None:
        return None if text_column is not None else as_baseline(0.0)
    return as_baseline(baseline)


def _as_layer(layer: Any) -> str | None:
    several = layer if isinstance(layer, list | tuple) else [layer]
    if layer is not None and not all(isinstance(each, str | int) for each in several):
        raise TypeError(f"layer: {layer!r}; a run takes the names of layers, since each worker has its own model")
    return None if layer is None else ", ".join(map(str, several))


def _require_reachable(out: PurePath, engine: Engine, workers: int | None) -> None:
    """Raise ValueError where workers cannot reach the output."""
    if str(out).startswith("memory://") and (engine != "local" or workers != 0):
        raise ValueError(f"output: {str(out)!r} is the memory of this process; use workers=0, or a folder")


def _crew(engine: Engine, workers: int | None, job: Job, out: PurePath, plan: Plan | None) -> Crew:
    """Return the workers of the engine."""
    if engine == "ray":
        from .cluster import Cluster

        return Cluster(job, out, workers, plan)
    if workers == 0:
        return Inline(job, out, plan)
    cores = (os.cpu_count() or 1) if job.device == "cpu" else 1  # all processes would share one GPU
    return Local(job, out, workers or max(1, cores // job.threads), plan)


def as_run_model(model: str | nn.Module | Prepared) -> str | ImageModel | TextModel:
    """Return the model as each worker gets it. Raises TypeError for what is neither a name nor a module."""
    if isinstance(model, Prepared):
        model = model.snapshot
    if isinstance(model, str):  # workers may have another working directory
        return str(Path(model).absolute()) if looks_like_a_path(model) else model
    if isinstance(model, ImageModel | TextModel):
        return model
    if isinstance(model, nn.Module):
        wrapped = ImageModel(model, name=type(model).__name__)
        wrapped.loaded = True  # a run copies and proves it once
        return wrapped
    raise TypeError(f"model: {type(model).__name__}; use a name such as 'efficientnet-lite0', or a module")


def _with_labels(declared: Declaration) -> Declaration:
    """Read labels from their file once, for workers with another working directory."""
    labels = declared.get("labels")
    return declared if labels is None else {**declared, "labels": read_labels(labels)}


def _absolute(images: str) -> str:
    """Make a local path absolute, for workers with another working directory. Raises ValueError for an empty text."""
    if not images:
        raise ValueError("images: '' is empty; name a folder, a table, a tar, or a URL of one of these")
    return images if is_remote(images) else str(Path(images).absolute())
