"""A workflow with `execute_many`, whose calls the tests look at, driven to its end in virtual time."""

from collections.abc import Sequence
from typing import Any

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, RetryPolicy, Workflow
from batchflow.testing import ManualClock, drive


class Lengths(BatchWorkflow[NoParams, str, int]):
    """The lengths of ids; `bad` has what a call raises that has such an id, `wrong` what is returned for an id."""

    entity = "text"
    page_size = 100
    group_size = 10
    execute_flow = FlowControl(parallelism=100)
    paginate_flow = None
    retry = RetryPolicy(retries=1, first="5s")

    def __init__(self, count: int = 0) -> None:
        self.ids = [f"t{number}" for number in range(count)]
        self.calls: list[list[str]] = []
        self.bad: dict[str, BaseException] = {}
        self.wrong: dict[str, Any] = {}

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        begin = int(cursor or 0)
        end = begin + limit
        return Page(ids=self.ids[begin:end], next_cursor=str(end) if end < len(self.ids) else None)

    async def execute_many(self, text_ids: Sequence[str]) -> list[int | BaseException]:
        self.calls.append(list(text_ids))
        for id in text_ids:
            if id in self.bad:
                raise self.bad[id]
        return [self.wrong.get(id, len(id)) for id in text_ids]

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


class Ended:
    """A batch that was driven to its end, and how long that took in virtual time."""

    def __init__(self, items: dict[str, Any], counts: Any, elapsed_ms: int) -> None:
        self.items = items
        self.succeeded, self.failed = counts.succeeded, counts.failed
        self.elapsed_ms = elapsed_ms


async def run(flow: Batchflow, clock: ManualClock, workflow: Workflow[Any, Any], **options: Any) -> Ended:
    batch = await workflow.trigger(**options)
    driven = await drive(flow, clock)
    items = {item.id: item async for item in batch.items()}
    return Ended(items, (await batch.status()).counts, driven.elapsed_ms)
