"""`execute_many`: items of a batch that are processed by one call, each with its own run, retries and result."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from batchflow import (
    Batchflow,
    BatchWorkflow,
    FlowControl,
    NonRetryable,
    NoParams,
    RetryPolicy,
)
from batchflow.core.message import Message
from batchflow.testing import Environment, ManualClock, drive
from tests.batch.lengths import Lengths, run

TENANT: ContextVar[str] = ContextVar("tenant", default="none")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def flow(clock: ManualClock) -> AsyncIterator[Batchflow]:
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        yield flow


# Groups


async def test_one_call_processes_a_group(flow: Batchflow, clock: ManualClock) -> None:
    """25 items at 10 a call: three calls, and each item has its own result."""
    lengths = Lengths(25)
    ended = await run(flow, clock, flow.add(lengths))
    assert lengths.sizes == [10, 10, 5]
    assert ended.succeeded == 25
    assert ended.items["t7"].result == 2
    assert ended.items["t17"].result == 3


async def test_a_group_waits_for_a_time_from_its_first_item_on(flow: Batchflow, clock: ManualClock) -> None:
    """With one item a second, `group_wait` of 2.5 s collects three of them."""

    class Slow(Lengths):
        group_wait = "2.5s"
        execute_flow = FlowControl(parallelism=100, rate=1)

    lengths = Slow(7)
    ended = await run(flow, clock, flow.add(lengths))
    assert lengths.sizes == [3, 3, 1]
    assert ended.elapsed_ms == pytest.approx(6_000 + 2_500, abs=20)


async def test_items_that_are_loaded_while_others_wait_join_them(flow: Batchflow, clock: ManualClock) -> None:
    """`load` and `save` are called for each item, and the group is whole although some take longer to load."""

    class Texts(BatchWorkflow[NoParams, list[str], int], ids_only=True):
        execute_flow = None

        def __init__(self) -> None:
            self.calls: list[int] = []
            self.saved: dict[str, int] = {}

        async def load(self, item_id: str) -> list[str]:
            for _ in range(int(item_id) * 5):
                await asyncio.sleep(0)
            return [item_id] * int(item_id)

        async def execute_many(self, items: Sequence[list[str]]) -> list[int]:
            self.calls.append(len(items))
            return [len(item) for item in items]

        async def save(self, item_id: str, result: int) -> None:
            self.saved[item_id] = result

    texts = Texts()
    await run(flow, clock, flow.add(texts), ids=["3", "1", "2"])
    assert texts.calls == [3]
    assert texts.saved == {"1": 1, "2": 2, "3": 3}


async def test_a_group_has_items_of_one_batch(flow: Batchflow, clock: ManualClock) -> None:
    """So that `self.params` and `self.headers` are right in the call; `self.item_id` says why there is none."""

    class Audience(BaseModel):
        language: str

    class Translations(BatchWorkflow[Audience, str, str], ids_only=True):
        async def load(self, item_id: str) -> str:
            TENANT.set(item_id)
            return item_id

        async def execute_many(self, items: list[str]) -> list[str]:
            with pytest.raises(RuntimeError, match="execute_many has many items at once"):
                _ = self.item_id
            tenant, _ = TENANT.get(), TENANT.set("call")
            return [f"{item}:{self.params.language}:{self.headers['x-team']}:{tenant}" for item in items]

    translations = flow.add(Translations())
    batches = [
        await translations.trigger(Audience(language=language), ids=["a", "b"], headers={"x-team": f"team-{language}"})
        for language in ("de", "fr")
    ]
    await drive(flow, clock)
    results = [[item.result async for item in batch.items()] for batch in batches]
    # No context variable of an item, or of another call, reaches a call.
    assert results == [["a:de:team-de:none", "b:de:team-de:none"], ["a:fr:team-fr:none", "b:fr:team-fr:none"]]


async def test_an_item_that_is_sent_by_hand_is_a_group_of_its_own() -> None:
    """It has parameters of its own, and waits for nothing."""
    lengths = Lengths()
    async with Batchflow("sqlite://") as flow:
        bound = flow.add(lengths)
        endpoint = bound.endpoints[2]
        message = Message(
            id="run_1", destination=endpoint.route, flow=endpoint.flow, body='{"textId":"abc"}', keep=True
        )
        await flow.engine.publish([message])
        found = await flow.engine.ended("run_1", lambda: _result(flow, "run_1"), 20)
    assert lengths.calls == [["abc"]]
    assert found == '{"success":true,"textId":"abc","result":3}'


async def _result(flow: Batchflow, id: str) -> str | None:
    found = await flow.engine.store.run(id)
    return None if found is None else found.result


# The durable parts


@pytest.mark.parametrize("store", [None, "fakeredis"])
async def test_a_replay_of_every_step_calls_each_item_once(store: str | None) -> None:
    """The result is recorded with each item's run, on every store."""
    flow = Batchflow("sqlite://")

    class Saving(Lengths):
        async def save(self, item_id: str, result: int) -> None:
            saved.append(item_id)

    saved: list[str] = []
    lengths = Saving(12)
    bound = flow.add(lengths)
    async with Environment(flow, store=store, always_replay=True) as env:
        record = await env.run(bound)
        assert record.summary.counts.succeeded == 12
    assert sorted(id for call in lengths.calls for id in call) == sorted(lengths.ids)
    assert sorted(saved) == sorted(lengths.ids)


async def test_a_crash_after_the_call_repeats_it_for_what_was_not_recorded() -> None:
    """An item whose result is recorded goes on with `save`; the others are called again."""

    class Saving(Lengths):
        async def save(self, item_id: str, result: int) -> None:
            """Nothing."""

    flow, lengths = Batchflow("sqlite://"), Saving(5)
    bound = flow.add(lengths)
    async with Environment(flow) as env:
        env.crash_after("saving:process-items")
        record = await env.run(bound)
        assert record.summary.counts.succeeded == 5
    first, *again = lengths.calls
    assert first == lengths.ids
    assert len(again) <= 1


async def test_a_test_answers_for_each_item() -> None:
    """Under the hook's own name: what it answers is one item's result."""
    flow, lengths = Batchflow("sqlite://"), Lengths(3)
    bound = flow.add(lengths)
    async with Environment(flow, strict=True) as env:
        env.answer("lengths:execute_many", len)
        env.fail("lengths:execute_many", ValueError("once"))
        record = await env.run(bound)
        assert record.summary.counts.succeeded == 3
        env.assert_ran("lengths:execute_many", times=4)
    assert lengths.calls == []


async def test_a_class_that_had_execute_goes_on_with_the_same_items(flow: Batchflow, clock: ManualClock) -> None:
    """A run that has recorded the step of `execute` replays it, after a deployment with `execute_many`."""

    class Old(BatchWorkflow[NoParams, str, int], ids_only=True):
        name = "lengths"
        entity = "text"
        retry = RetryPolicy(retries=1, first="5s")

        async def execute(self, text_id: str) -> int:
            return 7

        async def save(self, text_id: str, result: int) -> None:
            raise ValueError("not yet")

    saved: dict[str, int] = {}

    class New(Lengths, ids_only=True):
        name = "lengths"

        async def save(self, text_id: str, result: int) -> None:
            saved[text_id] = result

    batch = await flow.add(Old()).trigger(ids=["a"])
    await drive(flow, clock, until=clock.now() + 1_000)
    new = New()
    async with Batchflow(clock=clock, store=flow.engine.store, worker=False) as later:
        later.add(new)
        await drive(later, clock)
        assert (await batch.status()).counts.succeeded == 1
    assert (saved, new.calls) == ({"a": 7}, [])


# The short form


async def test_a_function_of_many_ids_is_called_for_groups(flow: Batchflow, clock: ManualClock) -> None:
    """The annotation of its parameter says so; sync and async, and called directly it is itself."""
    sizes: list[int] = []

    @flow.batch(ids=[f"u{number}" for number in range(7)], group_size=3)
    async def embed(user_ids: list[str]) -> list[list[float]]:
        sizes.append(len(user_ids))
        return [[float(len(id))] for id in user_ids]

    @flow.batch(ids=["a", "bb"])
    def measure(ids: Sequence[str]) -> list[int | NonRetryable]:
        return [len(id) if id == "a" else NonRetryable("long") for id in ids]

    ended = await run(flow, clock, embed)
    assert sizes == [3, 3, 1]
    assert ended.items["u4"].result == [2.0]
    assert embed.definition.wire.entity == "user"
    assert await embed(["x"]) == [[1.0]]
    measured = await run(flow, clock, measure)
    assert (measured.succeeded, measured.failed) == (1, 1)
    assert measure(["a"]) == [1]


# Numbers


async def test_the_default_limits_mean_calls() -> None:
    """`parallelism` and `rate` count items: by default ten groups at once, and five of them a second."""

    class Texts(BatchWorkflow[NoParams, str, int], ids_only=True):
        async def execute_many(self, items: list[str]) -> list[int]:
            return [len(item) for item in items]

    flow = Texts.__batch__.execute_flow
    assert (flow.parallelism, flow.rate, flow.key) == (500, 250, "texts.execute")


async def test_a_dry_run_predicts_from_the_time_of_items(flow: Batchflow, clock: ManualClock) -> None:
    """An item's time is that from its start to the end of its call, so that parallelism counts as it does."""
    lengths = Lengths(40)
    bound = flow.add(lengths)
    await run(flow, clock, bound)
    statistics = await bound.dry_run(force=True)
    assert statistics.to_process == 40
    assert statistics.mean_item_ms is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"execute_flow": FlowControl(rate=1)}, "execute_flow starts about 3 items in group_wait (2s)"),
        ({"execute_flow": None, "group_size": 500}, "A group of 500 can never be full, since this worker executes 256"),
    ],
)
async def test_limits_that_let_no_group_be_full_are_a_warning(
    flow: Batchflow, clock: ManualClock, options: dict[str, Any], sentence: str
) -> None:
    """Once for each worker, when the first item comes, with what to write."""
    lengths = type("Few", (Lengths,), options)(5)
    with capture_logs() as lines:
        await run(flow, clock, flow.add(lengths))
    (warning,) = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert sentence in warning
    assert "write group_" in warning
