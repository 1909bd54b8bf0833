"""What all tests share. The two operators stand in for those that a CPU torchvision build would bring."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch

# Two, so that results do not depend on the machine; one where others share its cores.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

# pytest-xdist tells its workers a terminal's width; what the commands print here goes to no terminal.
os.environ.pop("COLUMNS", None)

# A shell's background job ignores interrupts, and so would every command that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _define_torchvision_operators() -> torch.library.Library | None:
    # torchvision registers fakes for these on import and fails without; a wheel for CUDA brings them to no CPU build of
    # torch. Where its own load, they are used: two definitions would end the process.
    spec = importlib.util.find_spec("torchvision")
    for compiled in Path(spec.origin).parent.glob("_C*") if spec and spec.origin else ():
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(compiled))
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--third", type=int, help="of the tests marked long only a third: 0, 1 or 2")


def _case(item: pytest.Item) -> tuple[Path, str]:
    """What is tried: tests of the same parameters in a file make the same models."""
    return item.path, item.callspec.id if hasattr(item, "callspec") else item.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    third = config.getoption("third")
    if third is None:
        return
    long = [each for each in items if each.get_closest_marker("long")]
    # Dealt in turn, since tests that stand side by side take about as long.
    dealt = {case: i % 3 for i, case in enumerate(dict.fromkeys(map(_case, long)))}
    # What is marked release too would not fit into the time of any third.
    left_out = {id(each) for each in long if dealt[_case(each)] != third or each.get_closest_marker("release")}
    config.hook.pytest_deselected(items=[each for each in items if id(each) in left_out])
    items[:] = [each for each in items if id(each) not in left_out]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


_library = _define_torchvision_operators()  # kept alive: the operators vanish with it
