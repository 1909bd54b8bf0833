"""The version, in one place, and those of the libraries that a result depends on."""

from __future__ import annotations

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    import numpy
    import torch

    return {
        "limelight": __version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
