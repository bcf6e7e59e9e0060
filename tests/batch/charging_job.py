"""A batch that does something for each item before the item fails."""

from typing import Any

from batchflow import BatchSummary, BatchWorkflow, NonRetryable, NoParams, Page, WorkflowContext


class Job(BatchWorkflow[NoParams, str, str]):
    """It charges each item, and then fails for those that are `bad`."""

    page_size, chunk_size = 4, 2

    def __init__(self) -> None:
        self.ids = [f"i{number}" for number in range(10)]
        self.bad = {"i3", "i7"}
        self.charged: list[str] = []
        self.ended: list[BatchSummary] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        first = int(cursor or 0)
        ids = self.ids[first : first + limit]
        return Page(ids=ids, next_cursor=str(first + limit) if first + limit < len(self.ids) else None)

    async def process(self, ctx: WorkflowContext[Any], item: str) -> str:
        await ctx.run("charge", self.charged.append, item)
        if item in self.bad:
            raise NonRetryable(f"{item} is bad")
        return item.upper()

    async def on_complete(self, summary: BatchSummary) -> None:
        self.ended.append(summary)
