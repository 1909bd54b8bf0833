"""Locks on ranges of a file, which the kernel releases when their holder ends in any way."""

from __future__ import annotations

import fcntl
import os
import struct
import sys

_RANGE = struct.Struct("hhqqi4x")  # flock of 64-bit Linux: type, whence, start, length, process


def lock(descriptor: int, start: int = 0, length: int = 0, wait: bool = False) -> bool:
    """Lock a range of an open file until it is closed; a length of 0 reaches to any end. Whether that succeeded.

    On Linux the lock belongs to the open file, so that threads of one process exclude each other too, and closing
    another descriptor of the file keeps it. Elsewhere it belongs to the process.
    """
    try:
        if sys.platform == "linux":
            command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
            fcntl.fcntl(descriptor, command, _RANGE.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
    except (BlockingIOError, PermissionError):  # some systems raise the second one for a lock that is held
        return False
    return True
