"""What a run does once for each worker, and not for each group of pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from limelight.engine import input_pass
from limelight.engine.model_copy import ModelCopy
from limelight.engine.packed import PackedWeights
from limelight.runs.plan import Counts

from .helpers import pictures, start


def test_the_copy_is_proven_once_and_no_pass_is_searched_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of four in passes of two: the rows are settings, so that no pass is measured to choose them."""
    counts: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(ModelCopy, "_watched", counted("watched", ModelCopy._watched))
    monkeypatch.setattr(PackedWeights, "proven", staticmethod(counted("packed", PackedWeights.proven)))
    monkeypatch.setattr(input_pass, "search_layers", counted("searches", input_pass.search_layers))
    options = {"methods": ["gradient"], "shard_size": 8, "group": 4, "rows_per_pass": 2, "arithmetic": "packed"}
    run = start(pictures(tmp_path / "images", 16), tmp_path / "out", **options)
    assert run.counts == Counts(ok=16)
    # One pass forward and the first one with a gradient are watched, each once in the worker's life.
    assert counts["packed"] == 1 and 1 <= counts["watched"] <= 2 and counts["searches"] == 0


def test_a_layer_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later groups watch the layers that the first search found, and follow no operators."""
    followed: list[bool] = []
    search = input_pass.search_layers

    def searched(modules: Any, features: Any, watched: Any = None, unwatched: Any = ()) -> Any:
        followed.append(watched is None)
        return search(modules, features, watched, unwatched)

    monkeypatch.setattr(input_pass, "search_layers", searched)
    start(pictures(tmp_path / "images", 16), tmp_path / "out", methods=["grad-cam"], shard_size=8, group=4)
    assert followed == [True, False, False, False]
