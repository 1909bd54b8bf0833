"""What all tests share. The two operators stand in for those that a CPU torchvision build would bring."""

from __future__ import annotations

import os
import signal

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


_library = _define_torchvision_operators()  # kept alive: the operators vanish with it
