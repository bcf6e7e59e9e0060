"""The test kit: it runs an app in memory and in virtual time, with stubs and faults, and records what happens.

With pytest, use the fixture `flow_env`; without it, `Environment`.
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
