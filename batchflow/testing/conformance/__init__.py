"""What every store has to keep: a case for each promise of `batchflow.core.store`.

    class TestMyStore(SharedStoreConformance):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path: Path) -> None:
            self.path = tmp_path / "store"

        def make_store(self, clock: Clock) -> Store:
            return MyStore(self.path, clock=clock)

A subclass of `StoreConformance` says how a store is made; one of `SharedStoreConformance` says that what is made twice
within a test stands on the same place, as two processes do. Needs pytest, and pytest-asyncio in its auto mode.
"""

from batchflow.testing.conformance.batches import BatchCases
from batchflow.testing.conformance.cancelling import CancelCases
from batchflow.testing.conformance.children import ChildCases
from batchflow.testing.conformance.claiming import ClaimCases
from batchflow.testing.conformance.events import EventCases
from batchflow.testing.conformance.families import FamilyCases
from batchflow.testing.conformance.flows import FlowCases
from batchflow.testing.conformance.items import ItemCases
from batchflow.testing.conformance.ledger import LedgerCases
from batchflow.testing.conformance.life import LifeCases
from batchflow.testing.conformance.publishing import PublishCases
from batchflow.testing.conformance.redriving import RedriveCases
from batchflow.testing.conformance.retention import RetentionCases
from batchflow.testing.conformance.runs import RunCases
from batchflow.testing.conformance.settling import SettleCases
from batchflow.testing.conformance.shared import SharedCases
from batchflow.testing.conformance.steps import RecordCases
from batchflow.testing.conformance.waiters import WaiterCases
from batchflow.testing.conformance.workers import WorkerCases

__all__ = ["SharedStoreConformance", "StoreConformance"]


class StoreConformance(
    LifeCases,
    PublishCases,
    ClaimCases,
    FlowCases,
    WorkerCases,
    RecordCases,
    SettleCases,
    RedriveCases,
    RunCases,
    EventCases,
    WaiterCases,
    ChildCases,
    FamilyCases,
    BatchCases,
    ItemCases,
    CancelCases,
    LedgerCases,
    RetentionCases,
):
    """What a store keeps in one process. Say how it is made in `make_store`."""


class SharedStoreConformance(StoreConformance, SharedCases):
    """And what it keeps where several processes use the same place."""
