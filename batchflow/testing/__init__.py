"""The test kit: time and chance that tests control, an app driven to idle, faults by name.

What every store has to keep is in `batchflow.testing.conformance`, which needs pytest and is imported by its own name.
"""

from batchflow.testing.clock import FixedEntropy, ManualClock
from batchflow.testing.drive import Driven, StillWaiting, drive
from batchflow.testing.faults import Died, FaultyStore

__all__ = ["Died", "Driven", "FaultyStore", "FixedEntropy", "ManualClock", "StillWaiting", "drive"]
