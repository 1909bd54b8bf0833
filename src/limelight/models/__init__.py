"""What is explained: models by name, pictures, black boxes, weights, the embedded networks.

The names of `models.catalogue` are found here too, when first used: they bring Pillow and the libraries of networks.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name != "catalogue":
        catalogue = importlib.import_module(".catalogue", __name__)
        if hasattr(catalogue, name):
            return getattr(catalogue, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
