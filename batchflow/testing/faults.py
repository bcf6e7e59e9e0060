"""Faults by name: a store that dies, fails or loses its reply at a verb of the test's choice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from batchflow.batch.spelling import did_you_mean
from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import Claimed, DeadLetter, Message
from batchflow.core.ports import Verdict
from batchflow.core.run import Run, RunQuery, Step, Waiter
from batchflow.core.settlement import Effect, Settled, Settlement
from batchflow.errors import ConfigurationError, StoreUnavailable
from batchflow.stores.protocol import Store

T = TypeVar("T")
Fault: TypeAlias = Literal["die_before", "die_after", "lose_reply", "fail"]

VERBS = tuple(sorted(name for name in vars(Store) if not name.startswith("_") and name not in {"close", "on_change"}))
"""Verbs that can be made to fail."""


class Died(BaseException):
    """The process died at a verb, as the test wanted. What `drive` raises; no `except Exception` stops it."""


class _Planned(NamedTuple):
    fault: Fault
    verb: str


class FaultyStore:
    """`store`, with one fault at the `nth` call of a verb and, for `fail` and `lose_reply`, the `times` - 1 after it.

        FaultyStore(store, die_before="settle")            # the third one: nth=3
        FaultyStore(store, die_after="settle")             # carried out, and nobody knows
        FaultyStore(store, lose_reply="publish")           # carried out, and StoreUnavailable is raised
        FaultyStore(store, fail="claim", times=5)          # not carried out, and StoreUnavailable is raised

    A store that died is one of a process that is gone: `died` is set, the call at which it died and all later ones
    never return, and nothing reaches the store any more; `drive` raises `Died`. `calls` counts the calls of each verb.

    Raises:
        ConfigurationError: no fault or several are named, a store has no such verb, or a count is below 1.
    """

    def __init__(
        self,
        store: Store,
        *,
        die_before: str | None = None,
        die_after: str | None = None,
        lose_reply: str | None = None,
        fail: str | None = None,
        nth: int = 1,
        times: int = 1,
    ) -> None:
        self.store = store
        self.died = asyncio.Event()
        self.calls: dict[str, int] = dict.fromkeys(VERBS, 0)
        self._plan = _one_of(die_before=die_before, die_after=die_after, lose_reply=lose_reply, fail=fail)
        if nth < 1 or times < 1:
            raise ConfigurationError(f"'nth' ({nth}) and 'times' ({times}) count from 1")
        self._first, self._last = nth, nth + times - 1

    def repair(self) -> None:
        """No more faults from here on, unless it has died."""
        self._last = 0

    # What happens at a verb

    def _meets(self, verb: str) -> Fault | None:
        self.calls[verb] += 1
        due = self._plan.verb == verb and self._first <= self.calls[verb] <= self._last
        return self._plan.fault if due else None

    async def _through(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.died.is_set():
            await self._gone()
        fault = self._meets(verb)
        if fault == "die_before":
            await self._die()
        if fault == "fail":
            raise StoreUnavailable(f"'{verb}' fails, as the test wants it")
        answer = await call()
        if fault == "die_after" or self.died.is_set():
            await self._die()
        if fault == "lose_reply":
            raise StoreUnavailable(f"the reply to '{verb}' is lost, as the test wants it")
        return answer

    def _written(self, verb: str, call: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        # Not a task that would be left over at the end of the test.
        return self._gone() if self.died.is_set() else self._through(verb, call)

    async def _die(self) -> None:
        self.died.set()
        await self._gone()

    def _gone(self) -> "asyncio.Future[Any]":
        """Never resolves; a task that is being cancelled, as at the end of a test, is let go."""
        future = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            future.cancel()
        return future

    # Life

    async def open(self) -> None:
        """See the protocol."""
        await self._through("open", self.store.open)

    async def close(self) -> None:
        """See the protocol; works in every state, so that a test can tidy up."""
        await self.store.close()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        return self.store.on_change(callback)

    # Messages

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the protocol."""
        return await self._through("publish", lambda: self.store.publish(messages))

    async def enlist(self, worker: str, lease_ms: int) -> None:
        """See the protocol."""
        await self._through("enlist", lambda: self.store.enlist(worker, lease_ms))

    def renew(self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = ()) -> bool:
        """See the protocol; a dead process renews nothing."""
        fault = None if self.died.is_set() else self._meets("renew")
        if fault == "die_before":
            self.died.set()
        if self.died.is_set():
            raise StoreUnavailable("the process has died, as the test wants it")
        if fault == "fail":
            raise StoreUnavailable("'renew' fails, as the test wants it")
        held = self.store.renew(worker, lease_ms, hung)
        if fault == "die_after":
            self.died.set()
        if fault is not None:
            raise StoreUnavailable("the reply to 'renew' is lost, as the test wants it")
        return held

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
        """See the protocol."""
        return await self._through("claim", lambda: self.store.claim(worker, destinations, limit))

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """See the protocol."""
        return self._written("record", lambda: self.store.record(claim, fence, step, effects))

    def settle(self, settlement: Settlement) -> Awaitable[Settled]:
        """See the protocol."""
        return self._written("settle", lambda: self.store.settle(settlement))

    async def expire(self) -> int:
        """See the protocol."""
        return await self._through("expire", self.store.expire)

    async def dismiss(self, worker: str) -> None:
        """See the protocol."""
        await self._through("dismiss", lambda: self.store.dismiss(worker))

    # Runs

    async def run(self, id: str) -> Run | None:
        """See the protocol."""
        return await self._through("run", lambda: self.store.run(id))

    async def cancel_run(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("cancel_run", lambda: self.store.cancel_run(id))

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """See the protocol."""
        return await self._through("runs", lambda: self.store.runs(query, limit))

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """See the protocol."""
        return await self._through("cancel_runs", lambda: self.store.cancel_runs(destination=destination, label=label))

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the protocol."""
        return await self._through("notify", lambda: self.store.notify(event, data, run))

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """See the protocol."""
        return await self._through("waiters", lambda: self.store.waiters(event))

    async def webhook(self, token: str) -> str | None:
        """See the protocol."""
        return await self._through("webhook", lambda: self.store.webhook(token))

    async def dead_letters(self, *, batch: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """See the protocol."""
        return await self._through("dead_letters", lambda: self.store.dead_letters(batch=batch, limit=limit))

    # Batches

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the protocol."""
        return await self._through("open_batch", lambda: self.store.open_batch(batch, messages))

    async def batch(self, id: str) -> Batch | None:
        """See the protocol."""
        return await self._through("batch", lambda: self.store.batch(id))

    async def batches(
        self, *, workflow: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """See the protocol."""
        return await self._through(
            "batches", lambda: self.store.batches(workflow=workflow, open_only=open_only, limit=limit)
        )

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[Item]:
        """See the protocol."""
        return await self._through("items", lambda: self.store.items(batch, state=state, after=after, limit=limit))

    async def cancel_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._through("cancel_batch", lambda: self.store.cancel_batch(id))

    # The ledger

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """See the protocol."""
        return await self._through("processed", lambda: self.store.processed(workflow, ids))

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the protocol."""
        await self._through("mark", lambda: self.store.mark(workflow, ids, ttl_ms))

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        """See the protocol."""
        return await self._through("forget", lambda: self.store.forget(workflow, ids))

    # Flow keys

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """See the protocol."""
        await self._through("declare", lambda: self.store.declare(limits))

    async def pin(self, limits: FlowControl, *, paused: bool = False) -> None:
        """See the protocol."""
        await self._through("pin", lambda: self.store.pin(limits, paused=paused))

    async def unpin(self, key: str) -> None:
        """See the protocol."""
        await self._through("unpin", lambda: self.store.unpin(key))

    async def flows(self, keys: Sequence[str] | None = None) -> Sequence[FlowStatus]:
        """See the protocol."""
        return await self._through("flows", lambda: self.store.flows(keys))

    # Housekeeping

    async def prune(self, retention_ms: int) -> int:
        """See the protocol."""
        return await self._through("prune", lambda: self.store.prune(retention_ms))


def _one_of(**faults: str | None) -> _Planned:
    chosen: list[Any] = [(fault, verb) for fault, verb in faults.items() if verb is not None]
    if len(chosen) != 1:
        raise ConfigurationError(f"a FaultyStore has one fault of {', '.join(faults)}; {len(chosen)} are named")
    fault, verb = chosen[0]
    if verb not in VERBS:
        raise ConfigurationError(f"a store has no verb '{verb}'{did_you_mean(verb, VERBS)}")
    return _Planned(fault, verb)
