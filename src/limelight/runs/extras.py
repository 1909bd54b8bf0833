"""Packages that only dataset runs need, imported when used, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str, why: str) -> Any:
    """Import a module. Raises ImportError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        package = module.partition(".")[0]
        raise ImportError(f"{why} needs {package}: pip install 'limelight[{extra}]'", name=error.name) from error


def arrow(module: str = "") -> Any:
    """Import pyarrow, or a module inside it."""
    return need(f"pyarrow.{module}" if module else "pyarrow", "run", "a dataset run (its manifest and index)")
