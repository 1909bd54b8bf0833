"""The rock-paper-scissors study: photographs of hands, a constant added to every channel, and the maps' changes."""

from .data import DataError, Part, read_parts
from .page import write_study
from .shifting import Observation, observe
from .study import LEVELS, Listeners, Study, run_study
from .training import Epoch, Trained, train

__all__ = [
    "LEVELS",
    "DataError",
    "Epoch",
    "Listeners",
    "Observation",
    "Part",
    "Study",
    "Trained",
    "observe",
    "read_parts",
    "run_study",
    "train",
    "write_study",
]
