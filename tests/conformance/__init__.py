"""What every store has to keep: a case for each promise of `batchflow.core.store`.

    class TestMyStore(SharedStoreConformance):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path: Path) -> None:
            self.path = tmp_path / "store"

        def make_store(self, clock: Clock) -> Store:
            return MyStore(self.path, clock=clock)

A subclass of `StoreConformance` says how a store is made; one of `SharedStoreConformance` says that what is made twice
within a test stands on the same place, as two processes do. A store that keeps posts keeps `WireConformance` as well
(`batchflow.core.wire_store`), or `SharedWireConformance`. Needs pytest, and pytest-asyncio in its auto mode.
"""

from tests.conformance.batches import BatchCases
from tests.conformance.breakers import BreakerCases
from tests.conformance.canaries import CanaryCases
from tests.conformance.cancelling import CancelCases
from tests.conformance.children import ChildCases
from tests.conformance.claiming import ClaimCases
from tests.conformance.claiming_one import ClaimOneCases
from tests.conformance.dead_letters import DeadLetterCases
from tests.conformance.documents import DocumentCases
from tests.conformance.events import EventCases
from tests.conformance.failing import FailureCases
from tests.conformance.failure_budgets import FailureBudgetCases
from tests.conformance.families import FamilyCases
from tests.conformance.flows import FlowCases
from tests.conformance.item_keys import ItemKeyCases
from tests.conformance.item_keys_by_hand import ItemKeyOperationCases
from tests.conformance.items import ItemCases
from tests.conformance.ledger import LedgerCases
from tests.conformance.life import LifeCases
from tests.conformance.notifications import NotificationCases
from tests.conformance.open_messages import OpenMessageCases
from tests.conformance.operators import OperatorCases
from tests.conformance.post_log import PostLogCases
from tests.conformance.posts import PostCases
from tests.conformance.priorities import PriorityCases
from tests.conformance.publishing import PublishCases
from tests.conformance.queues import QueueCases
from tests.conformance.redriving import RedriveCases
from tests.conformance.retention import RetentionCases
from tests.conformance.retries import RetryCases
from tests.conformance.runs import RunCases
from tests.conformance.schedules import ScheduleCases
from tests.conformance.settling import SettleCases
from tests.conformance.shared import SharedCases
from tests.conformance.shared_posts import SharedPostCases
from tests.conformance.steps import RecordCases
from tests.conformance.timed_limits import TimedLimitCases
from tests.conformance.waiters import WaiterCases
from tests.conformance.wire_run_ends import WireRunEndCases
from tests.conformance.wire_runs import WireRunCases
from tests.conformance.wire_waits import WireWaitCases
from tests.conformance.workers import WorkerCases

__all__ = [
    "SharedStoreConformance",
    "SharedWireConformance",
    "StoreConformance",
    "WireConformance",
]


class StoreConformance(
    LifeCases,
    PublishCases,
    ClaimCases,
    ClaimOneCases,
    PriorityCases,
    FlowCases,
    WorkerCases,
    RecordCases,
    SettleCases,
    FailureCases,
    FailureBudgetCases,
    DeadLetterCases,
    RedriveCases,
    RunCases,
    EventCases,
    TimedLimitCases,
    BreakerCases,
    WaiterCases,
    ChildCases,
    FamilyCases,
    BatchCases,
    NotificationCases,
    CanaryCases,
    ItemCases,
    ItemKeyCases,
    ItemKeyOperationCases,
    OpenMessageCases,
    CancelCases,
    LedgerCases,
    RetentionCases,
    RetryCases,
    ScheduleCases,
):
    """What a store keeps in one process. Say how it is made in `make_store`."""


class SharedStoreConformance(StoreConformance, SharedCases, OperatorCases):
    """And what it keeps where several processes use the same place."""


class WireConformance(PostCases, PostLogCases, QueueCases, DocumentCases, WireRunCases, WireWaitCases, WireRunEndCases):
    """What a store keeps that keeps posts."""


class SharedWireConformance(WireConformance, SharedPostCases):
    """And what it keeps where several processes use the same place."""
