"""The test kit: an app in memory and in virtual time, stand-ins, faults by name, and what happened.

With pytest it comes as the fixture `flow_env`; without, as `Environment`. What every store has to keep is in
`batchflow.testing.conformance`, which needs pytest and is imported by its own name.
"""

from batchflow.testing.arranged import Unused
from batchflow.testing.calls import Unanswered
from batchflow.testing.clock import FixedEntropy, ManualClock
from batchflow.testing.drive import Driven, StillWaiting, drive
from batchflow.testing.environment import Environment
from batchflow.testing.faults import FaultyStore
from batchflow.testing.flow_env import FlowEnv
from batchflow.testing.passing import Died
from batchflow.testing.records import BatchRecord, RunRecord, StepRecord

__all__ = [
    "BatchRecord",
    "Died",
    "Driven",
    "Environment",
    "FaultyStore",
    "FixedEntropy",
    "FlowEnv",
    "ManualClock",
    "RunRecord",
    "StepRecord",
    "StillWaiting",
    "Unanswered",
    "Unused",
    "drive",
]
