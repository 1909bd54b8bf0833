"""The rock-paper-scissors study: photographs of hands, a constant added to every channel, and the maps' changes."""

from .data import DataError as DataError, Part as Part, read_parts as read_parts
from .page import write_study as write_study
from .shifting import Observation as Observation, observe as observe
from .study import LEVELS as LEVELS, Listeners as Listeners, Study as Study, run_study as run_study
from .training import Epoch as Epoch, Trained as Trained, train as train
