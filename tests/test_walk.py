"""The way of a question's parts from explain() to a method, followed through the calls as they are made."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch import Tensor

import limelight as ll
from limelight.question.question import Question

from .networks import conv_net, pictures
from .test_structure import ORDER, PACKAGE

pytestmark = pytest.mark.quick


@cache  # it is asked for every call that Python makes
def module_in(file: str) -> str | None:
    """The module in the file, dotted below the package; None for files of others."""
    path = Path(file)
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts) if path.is_relative_to(PACKAGE) else None


def caller_of(frame: FrameType) -> str | None:
    """The module of the nearest limelight frame that called."""
    above = frame.f_back
    while above is not None and module_in(above.f_code.co_filename) is None:
        above = above.f_back
    return None if above is None else module_in(above.f_code.co_filename)


def folder(module: str) -> str:
    """Files beside the rooms share one folder, the package's own."""
    return module.partition(".")[0] if "." in module else ""


def floor(module: str) -> int:
    return -ORDER.index(module.partition(".")[0])


def holds(value: Any, part: Any) -> bool:
    """Whether an argument is the part, a view of it, or options or a question that hold it."""
    if isinstance(value, Question):
        return True
    if isinstance(value, dict):
        return any(holds(each, part) for each in value.values())
    if isinstance(part, Tensor):
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()
    return value is part


@pytest.mark.parametrize("part", ["inputs", "target", "baseline"])
@pytest.mark.parametrize("name", ["gradient", "integrated-gradients(midpoint(2))", "occlusion(4, 4)"])
def test_a_part_enters_at_most_four_folders_and_climbs_at_most_twice(part: str, name: str) -> None:
    method = ll.METHODS.read(name)
    parts = {"inputs": pictures(2), "target": ll.Margin(1, 2), "baseline": ll.Blur(2)}
    moves: list[tuple[str, str]] = []
    reached = []

    def follow(frame: FrameType, event: str, argument: Any) -> None:
        here = module_in(frame.f_code.co_filename) if event == "call" and not reached else None
        if here is None:
            return
        if here.startswith("methods.") and frame.f_code.co_name == "run":
            reached.append(here)
        if any(holds(each, parts[part]) for each in frame.f_locals.values()):  # the arguments, as it is called
            moves.append((caller_of(frame) or here, here))

    sys.setprofile(follow)
    try:
        ll.explain(conv_net(), parts["inputs"], method, target=parts["target"], baseline=parts["baseline"])
    finally:
        sys.setprofile(None)
    assert reached and any(there == "explain" for _, there in moves)
    entered = {folder(there) for _, there in moves if there != reached[0]}
    climbs = [(here, there) for here, there in moves if floor(there) > floor(here)]
    assert len(entered | {"methods"}) <= 4, entered
    assert len(climbs) <= 2, climbs
