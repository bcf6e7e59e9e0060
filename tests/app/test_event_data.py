"""Data of events and webhooks that is not what a run waits for: it never ends the run by itself."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx import AsyncClient
from pydantic import BaseModel, Field

from batchflow import Batchflow, NoParams, WorkflowContext
from batchflow.core.codec import Codec
from batchflow.core.expected_data import ExpectedData
from batchflow.core.run import Waiter
from batchflow.errors import InputError, RunFailed
from batchflow.testing import ManualClock, drive
from tests.http.conftest import client_of


class Approved(BaseModel):
    by: str = Field(alias="approvedBy")


class App:
    """An app with a function that waits once, and one that waits until the data is right."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.flow = Batchflow("sqlite://", clock=self.clock, worker=False)
        self.refused: list[str] = []
        self.urls: list[str] = []

        @self.flow.serve("/once")
        async def once(ctx: WorkflowContext[NoParams]) -> str:
            return (await ctx.wait_for_event("approve", "approved", data=Approved)).data.by

        @self.flow.serve("/until")
        async def until(ctx: WorkflowContext[NoParams]) -> str:
            for attempt in range(9):
                try:
                    return (await ctx.wait_for_event(f"approve:{attempt}", "approved", data=Approved)).data.by
                except InputError as error:
                    await ctx.run(f"note:{attempt}", self.refused.append, str(error))
            return "nobody"

        @self.flow.serve("/hooked", base_url="https://x.test")
        async def hooked(ctx: WorkflowContext[NoParams]) -> int:
            webhook = await ctx.create_webhook("make")
            self.urls.append(webhook.url.removeprefix("https://x.test"))
            for attempt in range(9):
                try:
                    return (await ctx.wait_for_webhook(f"request:{attempt}", webhook)).data.json()["n"]
                except InputError as error:
                    await ctx.run(f"note:{attempt}", self.refused.append, str(error))
            return -1

        self.once, self.until, self.hooked = once, until, hooked

    async def drive(self) -> None:
        await drive(self.flow, self.clock, until=self.clock.now() + 1_000)

    def forget(self) -> None:
        """As another process that shares the store, which knows no types."""
        self.flow.engine.expected_data = ExpectedData()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    async with app.flow:
        yield app


@pytest.fixture
async def http(app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(app.flow) as client:
        yield client


async def test_data_that_no_waiting_run_can_read_is_422(app: App, http: AsyncClient) -> None:
    """The sender is told which field is at fault, and the run waits for the next event."""
    run = await app.once.trigger(NoParams())
    await app.drive()
    for bad in ({"approvedBye": "Ada"}, "Ada", {"approvedBy": 5}):
        answer = await http.post("/events/approved", json=bad)
        assert answer.status_code == 422
        assert "the data of event 'approved' is not a valid Approved: " in answer.json()["error"]
        assert "Ada" not in answer.text
    assert (await http.post("/events/approved", json={"approvedBy": "Ada"})).json()["runIds"] == [run.id]
    await app.drive()
    assert await run.wait() == "Ada"


async def test_a_refused_event_notifies_nobody(app: App) -> None:
    """Neither those that could read it; one that is for another run is not refused."""
    run, other = [await app.once.trigger(NoParams()) for _ in range(2)]
    await app.drive()
    with pytest.raises(InputError, match="approvedBy: Field required") as caught:
        await app.flow.notify("approved", {})
    assert caught.value.field == "approvedBy"
    assert {waiter.run for waiter in await app.flow.waiters("approved")} == {run.id, other.id}
    assert await app.flow.notify("approved", {}, run_id="run_unknown") == []
    assert await app.flow.notify("approved", {"by": "Ada"}, run_id=run.id) == [run.id]


async def test_a_wait_may_be_repeated_after_data_of_another_type(app: App) -> None:
    """Where the sender's process does not know the type, the wait raises an error that the code catches."""
    run = await app.until.trigger(NoParams())
    for data in ({}, "Ada", {"by": "Ada"}):
        await app.drive()
        app.forget()
        assert await app.flow.notify("approved", data) == [run.id]
    await app.drive()
    assert await run.wait() == "Ada"
    assert [said.partition(": ")[0] for said in app.refused] == [
        f"the data of event 'approved', for which 'approve:{n}' waited, is not a valid Approved" for n in (0, 1)
    ]


async def test_data_of_another_type_that_is_not_caught_fails_the_run(app: App) -> None:
    """At once, since every attempt would read the same."""
    run = await app.once.trigger(NoParams())
    await app.drive()
    app.forget()
    await app.flow.notify("approved", {})
    await app.drive()
    with pytest.raises(RunFailed, match="'approve' waited, is not a valid Approved: approvedBy: Field required"):
        await run.wait()


async def test_a_webhook_may_be_waited_for_again_after_a_body_that_is_not_json(app: App, http: AsyncClient) -> None:
    """The error of `json()` is caught like that of an event."""
    run = await app.hooked.trigger(NoParams())
    await app.drive()
    for body in (b"", b"{", b'{"n": 7}'):
        assert (await http.post(app.urls[0], content=body)).status_code == 202
        await app.drive()
    assert await run.wait() == 7
    assert ["webhook" in said for said in app.refused] == [True, True]


def test_expected_data_is_bounded() -> None:
    """Of many waits the latest 10,000 are known, and none that is over."""
    expected, codec = ExpectedData(), Codec.of(int)
    waiters = [Waiter(f"run_{n}", "wait", 0, None) for n in range(10_001)]
    for waiter in waiters:
        expected.add(waiter.run, waiter.step, f"paid:{waiter.run}", codec)
    assert (expected.of(waiters[:1]), expected.of(waiters[1:])) == ([], [codec])
    assert (expected.knows("paid:run_0"), expected.knows("paid:run_1")) == (False, True)
    for waiter in waiters:
        expected.discard(waiter.run, waiter.step)
    known: Any = [expected.knows(f"paid:{waiter.run}") for waiter in waiters]
    assert not any(known)
