"""Dataset runs: explain and test a million pictures, through kills and bad files, and lose nothing."""

from .auditing import audit as audit
from .bundle import write_audit as write_audit
from .clusters import Cluster as Cluster
from .coordinate import RunStopped as RunStopped
from .covering import Cover as Cover
from .page import write_report as write_report
from .plan import Counts as Counts
from .running import run as run
from .status import Status as Status, read_status as read_status
from .stored import Example as Example, Run as Run, StoredMap as StoredMap, open_run as open_run
from .summary import Summary as Summary
from .verdicts import Audit as Audit, Verdict as Verdict, audit_of as audit_of
from .verifying import Verification as Verification, verify as verify
