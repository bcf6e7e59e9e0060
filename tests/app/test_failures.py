"""Failures as an app shows them while they happen and afterwards: counts, groups, items, dead letters, the end."""

import asyncio
import json
from typing import Any

import pytest

from batchflow import (
    Batchflow,
    BatchSummary,
    BatchWorkflow,
    NonRetryable,
    NoParams,
    Page,
    RateLimited,
    RetryPolicy,
    WorkflowContext,
)
from batchflow.batch.bound import Workflow
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.frames import own_frame
from batchflow.errors import BatchFailed
from batchflow.testing import FlowEnv

RETRY = RetryPolicy(retries=3, first="1m", factor=1, jitter=0)


def parse(text: str) -> Any:
    return json.loads(text)


class Reviews(BatchWorkflow[NoParams, str, str]):
    """Each review fails in its own way."""

    name = "reviews"
    entry_flow = paginate_flow = execute_flow = None
    retry = RETRY

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["bad", "limited", "ok", "poor"])

    async def execute(self, item: str) -> str:
        if item == "limited":
            raise RateLimited(3_600)
        return item if item == "ok" else parse("{" if item == "bad" else "[")


class Told(Reviews):
    """The end of it fails as well."""

    name = "told"
    healthy = False

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["ok"])

    async def on_complete(self, summary: BatchSummary) -> None:
        if not self.healthy:
            raise NonRetryable("the channel is closed")


class Away(Reviews):
    """The source is away."""

    name = "away"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        raise NonRetryable("the database\nis away")


class Fast(Reviews):
    """Nothing is tried again."""

    name = "fast"
    retry = RetryPolicy.none()

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["bad"])


def app() -> tuple[Batchflow, dict[str, Workflow[Any, Any]]]:
    flow = Batchflow()
    return flow, {made.name: flow.add(made) for made in (Reviews(), Told(), Away(), Fast())}


async def test_failed_attempts_are_seen_while_the_batch_runs(flow_env: FlowEnv) -> None:
    """What waits after them is counted, and grouped by the last line of the user's own code."""
    flow, workflows = app()
    async with flow_env(flow) as env:
        batch = await workflows["reviews"].trigger()
        await env.advance("0s")
        status = await batch.status()
        counts = status.counts
        assert (counts.open, counts.succeeded, counts.retrying, counts.parked) == (3, 1, 2, 1)
        assert {str(group) for group in status.errors} == {"2 × JSONDecodeError", "1 × RateLimited"}
        (group,) = (group for group in status.errors if group.type == "JSONDecodeError")
        assert group.where.startswith("test_failures.py:")
        assert group.where.endswith(" in parse")
        assert group.message.startswith("JSONDecodeError: Expecting")
        assert group.item in ("bad", "poor")
        items = {item.id: item async for item in batch.items("open")}
        assert {id: item.attempts for id, item in items.items()} == {"bad": 1, "limited": 0, "poor": 1}
        assert (items["limited"].error or "").startswith("RateLimited: ")


async def test_an_item_fails_with_the_users_own_error(flow_env: FlowEnv) -> None:
    """It is not wrapped into that of its step; its attempts are counted through."""
    flow, workflows = app()
    async with flow_env(flow) as env:
        batch = await workflows["reviews"].trigger()
        await env.advance("5h")
        (bad, poor) = [item async for item in batch.items("failed")]
        assert (bad.attempts, poor.attempts) == (4, 4)
        assert (bad.error or "").startswith("JSONDecodeError: Expecting")
        assert own_frame(bad.error or "").endswith(" in parse")
        (group,) = (group for group in (await batch.status()).errors if group.type == "JSONDecodeError")
        assert (group.attempts, group.items) == (8, 2)
        letters = await flow.engine.store.dead_letters(DeadLetterQuery(batch=batch.id))
        assert [letter.attempts for letter in letters] == [4, 4]
        assert {letter.error for letter in letters} == {bad.error, poor.error}


async def test_a_batch_whose_on_complete_fails_has_not_succeeded(flow_env: FlowEnv) -> None:
    """Summary, status and `wait(check=True)` say so, until a redrive of it succeeds."""
    flow, workflows = app()
    async with flow_env(flow) as env:
        batch = await workflows["told"].trigger()
        await env.drive()
        summary = await batch.wait()
        assert (summary.state, summary.succeeded, summary.counts.succeeded) == ("completed", False, 1)
        assert "NonRetryable: the channel is closed" in (summary.completion_error or "")
        with pytest.raises(BatchFailed, match="on_complete failed"):
            await batch.wait(check=True)
        (letter,) = await flow.engine.store.dead_letters(DeadLetterQuery(batch=batch.id))
        Told.healthy = True
        assert await flow.engine.store.redrive(letter.id)
        await env.drive()
        assert (await batch.wait(check=True)).completion_error is None
        assert (await batch.status()).is_over


async def test_a_walk_that_fails_is_told_in_one_sentence(flow_env: FlowEnv) -> None:
    """The traceback is in the dead letter, where an operator asks for it."""
    flow, workflows = app()
    async with flow_env(flow) as env:
        batch = await workflows["away"].trigger()
        await env.drive()
        summary = await batch.wait()
        assert (
            summary.error == "step 'away:get-batch' (fetch) failed after 1 attempt: NonRetryable: the database is away"
        )
        assert "\n" not in str(summary)
        (letter,) = await flow.engine.store.dead_letters(DeadLetterQuery(batch=batch.id))
        assert "Traceback" in letter.error
        assert letter.attempts == 1


async def test_an_attempt_is_counted_once_in_a_fan_out(flow_env: FlowEnv) -> None:
    """Each branch that fails is one, and the item fails with the last of them."""
    flow = Batchflow()
    asked: list[str] = []

    class Split(Reviews):
        name = "split"
        retry = RetryPolicy(retries=1, first="1m", jitter=0)

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            return Page(ids=["a"])

        async def process(self, ctx: WorkflowContext[NoParams], item: str) -> str:
            parts = await asyncio.gather(ctx.run("one", self.part, "one"), ctx.run("two", self.part, "two"))
            return "".join(parts)

        async def part(self, name: str) -> str:
            asked.append(name)
            if asked.count(name) == 1:
                raise OSError(name)
            return name

    batch = None
    async with flow_env(flow) as env:
        batch = await flow.add(Split()).trigger()
        await env.advance("0s")
        assert (await batch.status()).counts.retrying == 1
        assert [(group.type, group.attempts) for group in (await batch.status()).errors] == [("OSError", 2)]
        await env.drive()
        (item,) = [item async for item in batch.items()]
        assert (item.state, item.attempts, item.error) == ("succeeded", 3, None)
