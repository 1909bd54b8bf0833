"""Peak memory of a script, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

# VmHWM is of this program image alone, where ru_maxrss would carry the parent's over.
_BEGIN = """
import torch, limelight as ll

def peak():
    with open('/proc/self/status') as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))

torch.manual_seed(0); torch.set_num_threads(1)
"""


def peaks(script: str, **environment: str) -> tuple[int, int]:
    """KiB at the end of `script`, and before what is measured, where the script has `before = peak()`."""
    whole = f"{_BEGIN}{textwrap.dedent(script)}\nprint(peak(), before)"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    after, before = map(int, done.stdout.split())
    assert after > before  # otherwise the passes went unseen and the figure says nothing
    return after, before
