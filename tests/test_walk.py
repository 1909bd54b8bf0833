"""The way of a question's parts from explain() to a method, followed through the calls as they are made."""

from __future__ import annotations

import sys
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


def module_of(frame: FrameType | None) -> str | None:
    """The module of the nearest limelight frame, dotted below the package."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        frame = frame.f_back
    return None


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
        here = module_of(frame)
        if event != "call" or reached or here is None or not Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            return
        if here.startswith("methods.") and frame.f_code.co_name == "run":
            reached.append(here)
        if any(holds(each, parts[part]) for each in frame.f_locals.values()):  # the arguments, as it is called
            moves.append((module_of(frame.f_back) or here, here))

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
