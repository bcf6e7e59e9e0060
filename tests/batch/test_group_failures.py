"""Calls of `execute_many` that fail: which items fail with them, and which are called again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from structlog.testing import capture_logs

from batchflow import Batchflow, BatchWorkflow, NonRetryable, NoParams, Page, RateLimited, RetryAfter, RetryPolicy
from batchflow.testing import ManualClock, drive
from tests.batch.lengths import Lengths, run


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def flow(clock: ManualClock) -> AsyncIterator[Batchflow]:
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        yield flow


async def test_an_exception_among_the_results_is_the_failure_of_its_item(flow: Batchflow, clock: ManualClock) -> None:
    """As if `execute` had raised it: retried or not, after its own delay, under the item's policy."""
    lengths = Lengths(6)
    lengths.wrong = {"t1": ValueError("odd"), "t2": NonRetryable("never"), "t3": RetryAfter(30)}
    ended = await run(flow, clock, flow.add(lengths))
    assert lengths.calls == [lengths.ids, ["t1"], ["t3"]]
    assert (ended.succeeded, ended.failed) == (3, 3)
    assert ended.items["t1"].error.startswith("ValueError: odd")
    assert ended.items["t2"].error.startswith("NonRetryable: never")
    assert [ended.items[id].attempts for id in ("t1", "t2", "t3")] == [2, 1, 2]
    assert ended.elapsed_ms >= 30_000


async def test_a_rate_limit_among_the_results_parks_the_key(flow: Batchflow, clock: ManualClock) -> None:
    """And costs its item no attempt."""
    lengths = Lengths(3)
    lengths.wrong = {"t1": RateLimited(60)}
    batch = await flow.add(lengths).trigger()
    await drive(flow, clock, until=clock.now() + 30_000)
    (key,) = [it for it in await flow.engine.store.flows() if it.limits.key == "lengths.execute"]
    assert key.parked_until >= clock.now() + 30_000
    lengths.wrong.clear()
    await drive(flow, clock)
    counts = (await batch.status()).counts
    assert (counts.succeeded, counts.failed) == (3, 0)
    assert [item.attempts async for item in batch.items()] == [1, 1, 1]


async def test_a_call_that_raises_is_repeated_by_halves(flow: Batchflow, clock: ManualClock) -> None:
    """One bad item fails alone, with its own error, and the others have lost no attempt."""

    class Texts(Lengths):
        group_size = 16

    texts = Texts(16)
    texts.bad = {"t5": NonRetryable("unreadable")}
    ended = await run(flow, clock, flow.add(texts))
    assert texts.sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8]
    assert (ended.succeeded, ended.failed) == (15, 1)
    assert ended.items["t5"].error.startswith("NonRetryable: unreadable")
    assert {item.attempts for item in ended.items.values()} == {1}


async def test_bad_items_that_are_neighbours_fail_alone(flow: Batchflow, clock: ManualClock) -> None:
    """However many they are; a repeated one is in a group with the others that are due."""
    lengths = Lengths(10)
    lengths.bad = {id: ValueError(id) for id in ("t0", "t1", "t2", "t9")}
    ended = await run(flow, clock, flow.add(lengths))
    assert (ended.succeeded, ended.failed) == (6, 4)
    assert {id for id, item in ended.items.items() if item.attempts == 2} == set(lengths.bad)
    assert all(ended.items[id].error.startswith(f"ValueError: {id}") for id in lengths.bad)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        RateLimited(10),
        RetryAfter(10),
        TimeoutError("no answer"),
        ConnectionResetError("gone"),
        asyncio.CancelledError(),
        caused(RuntimeError("cannot connect"), ConnectionRefusedError("refused")),
        ExceptionGroup("two", [RateLimited(10), TimeoutError("no answer")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_no_items_fault_is_not_repeated_by_halves(
    flow: Batchflow, clock: ManualClock, error: BaseException
) -> None:
    """A limit, a timeout, a lost connection: it would only call more often. All items wait for their next attempt."""
    lengths = Lengths(10)
    lengths.bad = {"t3": error}
    batch = await flow.add(lengths).trigger()
    await drive(flow, clock, until=clock.now() + 2_500)
    assert lengths.sizes == [10]
    lengths.bad.clear()
    await drive(flow, clock)
    assert lengths.sizes == [10, 10]
    assert (await batch.status()).counts.succeeded == 10


async def test_a_half_that_meets_a_rate_limit_ends_the_others(flow: Batchflow, clock: ManualClock) -> None:
    """No further call is made while the key is parked, and no item has lost an attempt to the limit."""

    class Limited(Lengths):
        async def execute_many(self, text_ids: Sequence[str]) -> list[int | BaseException]:
            self.calls.append(list(text_ids))
            if len(self.calls) == 1:
                raise ValueError("too many")
            if len(self.calls) == 2:
                raise RateLimited(60)
            return [len(id) for id in text_ids]

    limited = Limited(10)
    batch = await flow.add(limited).trigger()
    await drive(flow, clock, until=clock.now() + 30_000)
    assert limited.sizes == [10, 5]
    await drive(flow, clock)
    assert limited.sizes == [10, 5, 10]
    assert [item.attempts async for item in batch.items()] == [1] * 10


@pytest.mark.parametrize(
    ("returned", "sentence", "calls"),
    [
        ([1, 2], "ValueError: Wrong.execute_many returned 2 results for 3 items; return a list with one result", 2),
        ([1, 2, 3, 4], "ValueError: Wrong.execute_many returned 4 results for 3 items", 2),
        (None, "NonRetryable: Wrong.execute_many returned None, not a sequence", 1),
        ({"t0": 1}, "NonRetryable: Wrong.execute_many returned dict, not a sequence", 1),
        ("abc", "NonRetryable: Wrong.execute_many returned str, not a sequence", 1),
        (iter([1, 2, 3]), "NonRetryable: Wrong.execute_many returned list_iterator, not a sequence", 1),
    ],
)
async def test_a_call_that_returns_something_else_fails_all_its_items(
    flow: Batchflow, clock: ManualClock, returned: Any, sentence: str, calls: int
) -> None:
    """With one sentence; a wrong number is tried again, since a model may leave one out."""

    class Wrong(Lengths):
        async def execute_many(self, text_ids: Sequence[str]) -> Any:
            self.calls.append(list(text_ids))
            return returned

    wrong = Wrong(3)
    ended = await run(flow, clock, flow.add(wrong))
    assert (ended.failed, len(wrong.calls)) == (3, calls)
    assert all(item.error.startswith(sentence) for item in ended.items.values())


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), KeyboardInterrupt(), StopIteration()])
@pytest.mark.parametrize("threaded", [False, True])
async def test_whatever_a_call_raises_is_a_failure_of_its_items(
    flow: Batchflow, clock: ManualClock, error: BaseException, threaded: bool
) -> None:
    """Neither the worker nor the collector ends with it."""
    calls: list[list[str]] = []

    class Exiting(BatchWorkflow[NoParams, str, int], ids_only=True):
        retry = RetryPolicy(retries=0)

        def execute_many(self, items: list[str]) -> Any:
            calls.append(items)
            if threaded:
                raise error
            return self._raise_later()

        async def _raise_later(self) -> Sequence[int]:
            raise error

    ended = await run(flow, clock, flow.add(Exiting()), ids=["a", "b"])
    assert calls == [["a", "b"], ["a"], ["b"]]
    assert ended.failed == 2


async def test_a_result_that_does_not_survive_is_its_items_failure(flow: Batchflow, clock: ManualClock) -> None:
    """The others keep theirs; the error names the step and the hook."""
    lengths = Lengths(3)
    lengths.wrong = {"t1": object()}
    ended = await run(flow, clock, flow.add(lengths))
    assert (ended.succeeded, ended.failed) == (2, 1)
    assert "step 'lengths:process-items' (execute_many)" in ended.items["t1"].error


@pytest.mark.parametrize(("raises", "error"), [(True, TimeoutError), (True, ValueError), (False, None)])
async def test_no_item_has_the_secret_of_another_in_its_error(
    flow: Batchflow, clock: ManualClock, raises: bool, error: Any
) -> None:
    """A call has the items of all: what its error quotes of one is in the stored error of none."""

    class Account(BaseModel):
        number: str
        token: SecretStr

    class Accounts(BatchWorkflow[NoParams, Account, int]):
        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[Account]:
            return Page(items={id: Account(number=id, token=SecretStr(f"secret-of-{id}")) for id in "abc"})

        async def execute_many(self, items: list[Account]) -> list[int | Exception]:
            tokens = [item.token.get_secret_value() for item in items]
            if raises:
                raise error(f"no answer for {tokens}")
            return [NonRetryable(f"refused {tokens}") for _ in items]

    batch = await flow.add(Accounts()).trigger()
    with capture_logs() as lines:
        await drive(flow, clock, until=clock.now() + 3_000)
    assert "secret-of" not in str(lines)
    errors = [str(item.error) async for item in batch.items()]
    assert len(errors) == 3
    assert all("no answer" in error or "refused" in error for error in errors)
    assert not any("secret-of" in error for error in errors)


async def test_a_failed_attempt_names_the_hook_in_the_log(flow: Batchflow, clock: ManualClock) -> None:
    """The place is the user's own frame, for an exception that was raised."""
    lengths = Lengths(2)
    lengths.bad = {"t1": ValueError("odd")}
    with capture_logs() as lines:
        await run(flow, clock, flow.add(lengths))
    halves, warning = [line for line in lines if line["log_level"] == "warning"]
    assert halves["event"] == (
        "[lengths:execute] A call for 2 items has failed and is repeated by halves: ValueError: odd (later ones are "
        "logged at DEBUG)"
    )
    assert warning["event"] == "[lengths:execute] Attempt 1 of 2 failed, again in 5 s: ValueError: odd"
    assert warning["where"].endswith("in execute_many")
