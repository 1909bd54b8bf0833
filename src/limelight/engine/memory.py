"""Memory: whether it ran out, and how much is free."""

from __future__ import annotations

import os

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, so that a smaller pass or another attempt may succeed."""
    messages = ("can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in messages)


def free_bytes(device: torch.device) -> int:
    """Return the bytes of memory that the device has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
        return pages // 2
