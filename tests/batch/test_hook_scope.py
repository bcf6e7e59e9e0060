"""Hooks see the batch they run for; outside of hooks that raises."""

from collections.abc import Sequence

import pytest

from batchflow.batch.status import BatchSummary
from batchflow.batch.workflow import BatchWorkflow, Page
from tests.batch.model import Model
from tests.batch.samples import Audience, Welcome, bound


class Curious(BatchWorkflow[Audience]):
    """Every hook looks at what it is given."""

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}

    def fetch(self, params: Audience, cursor: str | None, limit: int) -> Page:
        self.seen["fetch"] = self.params
        return Page(["a", "b"])

    async def filter(self, params: Audience, ids: Sequence[str]) -> list[str]:
        self.seen["filter"] = self.params
        return await self.unprocessed(ids)

    def execute(self, item_id: str) -> None:
        self.seen["execute"] = (self.params, self.item_id)

    def on_complete(self, summary: BatchSummary) -> None:
        self.seen["on_complete"] = self.params
        with pytest.raises(RuntimeError, match="inside load, execute, process, save and on_item_failure"):
            _ = self.item_id


async def test_hooks_see_their_parameters(model: Model) -> None:
    """In worker threads too; what the ledger holds is left out."""
    curious = Curious()
    workflow = bound(model, curious)
    model.marked["curious"] = {"a"}
    batch = await workflow.trigger(Audience(paid_only=True))
    await model.drive()
    paid = Audience(paid_only=True)
    assert curious.seen == {"fetch": paid, "filter": paid, "execute": (paid, "b"), "on_complete": paid}
    assert model.dead == {}
    assert model.counts(batch.id).already_processed == 1


async def test_outside_of_hooks_there_is_nothing_to_see() -> None:
    """The sentence says where it can be used."""
    welcome = Welcome()
    for what, ask in (("self.params", lambda: welcome.params), ("self.item_id", lambda: welcome.item_id)):
        with pytest.raises(RuntimeError) as raised:
            ask()
        assert str(raised.value) == f"{what} can only be used inside the hooks of 'welcome' while they run"
    with pytest.raises(RuntimeError, match=r"self\.unprocessed\(\) can only be used"):
        await welcome.unprocessed(["a"])


async def test_parameters_are_decoded_once_per_batch(model: Model) -> None:
    """All items of a batch share one object."""
    seen: list[Audience] = []

    class Sharing(Curious):
        def execute(self, item_id: str) -> None:
            seen.append(self.params)

    await bound(model, Sharing()).trigger()
    await model.drive()
    assert seen[0] is seen[1]
