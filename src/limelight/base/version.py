"""The versions of limelight and of the libraries that affect results."""

from __future__ import annotations

import platform
from collections.abc import Mapping

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions that affect results."""
    import numpy
    import torch

    return {
        "limelight": __version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def in_words(found: Mapping[str, str]) -> str:
    """Write versions on one line.

    >>> in_words({"limelight": "0.1.0", "torch": "2.13.0"})
    'limelight 0.1.0, torch 2.13.0'
    """
    return ", ".join(f"{library} {version}" for library, version in found.items())
