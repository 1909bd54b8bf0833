"""Dataset runs: explain and test a million pictures, through kills and bad files, and lose nothing."""

from .clusters import Cluster
from .coordinate import RunStopped
from .ledger import Counts
from .page import write_report
from .running import run
from .status import Status, read_status
from .stored import Example, Run, StoredMap, open_run
from .summary import Summary

__all__ = [
    "Cluster",
    "Counts",
    "Example",
    "Run",
    "RunStopped",
    "Status",
    "StoredMap",
    "Summary",
    "open_run",
    "read_status",
    "run",
    "write_report",
]
