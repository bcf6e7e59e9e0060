"""The test kit: an app in memory and in virtual time, stand-ins, faults by name, and what happened.

With pytest it comes as the fixture `flow_env`; without, as `Environment`. What every store has to keep is in
`tests.conformance`, which needs pytest and is imported by its own name.
"""

from batchflow.testing.clock import FixedEntropy, ManualClock
from batchflow.testing.drive import DriveResult, StillWaiting, drive
from batchflow.testing.environment import Environment, FlowEnv, Unused
from batchflow.testing.faults import FaultyStore, ProcessCrashed
from batchflow.testing.records import BatchRecord, RunRecord, StepRecord
from batchflow.testing.stubs import Unanswered

__all__ = [
    "BatchRecord",
    "DriveResult",
    "Environment",
    "FaultyStore",
    "FixedEntropy",
    "FlowEnv",
    "ManualClock",
    "ProcessCrashed",
    "RunRecord",
    "StepRecord",
    "StillWaiting",
    "Unanswered",
    "Unused",
    "drive",
]
