"""The rock-paper-scissors study: hands on green, a constant added to every channel, and what the maps make of it."""

from .data import DataError, Part, read_parts
from .observations import Observation, observe
from .page import write_study
from .study import LEVELS, Study, Told, run_study
from .training import Epoch, Trained, train

__all__ = [
    "LEVELS",
    "DataError",
    "Epoch",
    "Observation",
    "Part",
    "Study",
    "Told",
    "Trained",
    "observe",
    "read_parts",
    "run_study",
    "train",
    "write_study",
]
