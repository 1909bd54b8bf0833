"""What all tests share. The two operators stand in for those that a CPU torchvision build would bring."""

from __future__ import annotations

import os
import signal
import zlib

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
    # torchvision's wheel has no CPU build of these; it registers fakes for them on import and fails without.
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--third", type=int, help="of the tests marked long only a third: 0, 1 or 2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    third = config.getoption("third")
    if third is None:
        return
    chosen = {id(each) for each in items if zlib.crc32(each.nodeid.encode()) % 3 == third}
    others = [each for each in items if each.get_closest_marker("long") and id(each) not in chosen]
    config.hook.pytest_deselected(items=others)
    left_out = set(map(id, others))
    items[:] = [each for each in items if id(each) not in left_out]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


_library = _define_torchvision_operators()  # kept alive: the operators vanish with it
