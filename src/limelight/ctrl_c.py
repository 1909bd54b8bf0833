"""Ctrl-C while the command's modules are imported, which takes seconds: one line, exit code 130, no traceback.

The package's first import. Python would raise KeyboardInterrupt in the middle of an import, which prints a traceback,
and loses it where the import system calls back. A program that uses the library keeps its own handler.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

INTERRUPTED = 130


def end(number: int, frame: object) -> None:
    """End this process at once: nothing has been begun. Only the command itself says so, not its workers."""
    if "--multiprocessing-fork" not in sys.orig_argv:
        os.write(2, b"limelight: interrupted\n")
    os._exit(INTERRUPTED)


def _is_the_command() -> bool:
    """Whether the process is `limelight` or `python -m limelight`, or a worker of it."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    if str(program) == "-m":  # what argv holds before the package is imported
        return any(pair == ("-m", "limelight") for pair in zip(sys.orig_argv, sys.orig_argv[1:], strict=False))
    return program.stem == "limelight" or program.parts[-2:] == ("limelight", "__main__.py")


if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and _is_the_command()
):
    signal.signal(signal.SIGINT, end)
