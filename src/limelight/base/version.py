"""The versions of limelight and of the libraries that affect results."""

from __future__ import annotations

import platform

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
