"""The old name of `limelight.studies.ground_truth`, until 0.2."""

import sys
from importlib import import_module

for _name in ("each", "handset", "mosaics", "patterns", "ranking", "scenes", "synthetic", "trained"):
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = import_module(f"..studies.ground_truth.{_name}", __name__)
