"""Collects items that are under way in this process into groups, each of which one call of `execute_many` processes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from math import ceil
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, cast

from batchflow.batch.definition import Definition
from batchflow.batch.hook_scope import CURRENT_HOOK, HookScope
from batchflow.batch.logs import LayerLog
from batchflow.batch.names import quantity
from batchflow.core.duration import format_duration, humanize_duration
from batchflow.core.message import Claim
from batchflow.core.ports import Runtime
from batchflow.errors import NonRetryable
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext
from batchflow.serve.delivery_scope import CURRENT_DELIVERY, CURRENT_STEP, ActiveStep, DeliveryScope
from batchflow.serve.failure import concerns_whole_call, describe_error, is_program_exit, rate_limit

_Outcome: TypeAlias = tuple[Any, BaseException | None, TracebackType | None]


def _advice(definition: Definition, capacity: int | None) -> str:
    """Return a warning about limits with which no group becomes full; "" if they let it."""
    size, flow = definition.group_size, definition.execute_flow
    if capacity is not None and capacity < size:
        return (
            f"A group of {size} can never be full, since this worker executes {capacity} at once; write "
            f"group_size = {capacity}, or raise BATCHFLOW_CONCURRENCY"
        )
    come = size if not flow.rate else int(definition.group_wait_ms / flow.interval_ms) + max(1, flow.burst)
    if come < size:
        needed = format_duration(ceil((size - flow.burst) * flow.interval_ms / 1000) * 1000)
        return (
            f"A group of {size} is seldom full, since execute_flow starts about {come} items in group_wait "
            f"({humanize_duration(definition.group_wait_ms)}); write group_wait = '{needed}', group_size = {come}, or "
            f"a larger rate, which counts items"
        )
    return ""


def _sequence(returned: object) -> Sequence[object] | None:
    """Return a list or another sequence of results as it is, None for anything else."""
    is_sequence = isinstance(returned, Sequence) and not isinstance(returned, str | bytes | bytearray)
    return cast("Sequence[object]", returned) if is_sequence else None


class _LeaseLost(Exception):
    """The outcome of an item whose claim may be another worker's."""


class _GroupedItem:
    """An item in a group, for the claim that waits for its outcome."""

    __slots__ = ("call", "claim", "delivery", "group", "item", "lease_losses", "loop", "outcome", "step", "waits")

    def __init__(self, item: Any, claim: Claim, delivery: DeliveryScope, lease_losses: int) -> None:
        self.item = item
        self.claim = claim
        self.delivery = delivery
        self.step: ActiveStep | None = CURRENT_STEP.get()
        self.lease_losses = lease_losses
        self.loop = asyncio.get_running_loop()
        # Never an exception of the future: a GeneratorExit would close the coroutine that awaits it.
        self.outcome: asyncio.Future[_Outcome] = self.loop.create_future()
        self.group: _Group | None = None
        self.call: _Call | None = None
        self.waits = False

    def set_waiting(self, waits: bool) -> None:
        """Note that the item waits for its call, which does not count towards its timeout, or no longer does."""
        if waits is not self.waits:
            self.waits = waits
            self.delivery.on_thread_wait(waits, self.loop.time())

    def set_result(self, value: Any) -> None:
        """End the item with what the call returned for it, which may be an exception."""
        if isinstance(value, BaseException):
            self.set_error(value)
        elif not self.outcome.done():
            self.outcome.set_result((value, None, None))

    def set_error(self, error: BaseException) -> None:
        """End the item with an error."""
        if not self.outcome.done():
            # Many items may raise the same exception: each from the traceback that it has now.
            self.outcome.set_result((None, error, error.__traceback__))


class _Group:
    """Items of one batch that one call processes, in the order in which they came."""

    __slots__ = ("batch", "is_called", "is_due", "items", "scope", "timer")

    def __init__(self, batch: str, scope: HookScope) -> None:
        self.batch = batch
        self.scope = scope
        self.items: dict[_GroupedItem, None] = {}
        """Those that have no outcome yet."""
        self.timer: asyncio.TimerHandle | None = None
        self.is_due = False
        self.is_called = False


class _Call:
    """A call that executes; it is abandoned once none of its items is left."""

    __slots__ = ("ended", "is_abandoned", "left", "task")

    def __init__(self, left: int, task: "asyncio.Task[_Answer]") -> None:
        self.left = left
        self.task = task
        self.is_abandoned = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task.add_done_callback(self._end)

    def leave(self) -> None:
        """Note that an item has gone; cancel the call of the last one, and wait for its end no longer."""
        self.left -= 1
        if not self.left:
            self.is_abandoned = True
            self.task.cancel()
            self._end(self.task)

    def _end(self, _: "asyncio.Task[_Answer]") -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Answer(NamedTuple):
    """The end of a call for some items: what it returned, or its error."""

    items: Sequence[_GroupedItem]
    returned: Any = None
    error: BaseException | None = None


class _CallScope(DeliveryScope):
    """The delivery scope of a call: its items wait for a thread when it does."""

    def __init__(self, runtime: Runtime, items: Sequence[_GroupedItem]) -> None:
        super().__init__(runtime.threads, runtime)
        self._items = items

    def on_thread_wait(self, is_waiting: bool, now: float) -> None:
        for it in self._items:
            it.delivery.on_thread_wait(is_waiting, now)


class Collector:
    """Collects the items of one workflow that one worker has under way, and calls `execute_many` for them.

    A group has items of one batch. It is called when it is full, when `group_wait` has passed since its first item, or
    when no more items can come because all that the worker has under way wait in groups; and if `group_parallelism`
    calls execute already, when one of them ends. Until then it takes further items.
    """

    def __init__(
        self, definition: Definition, execute_many: Callable[..., Any], runtime: Runtime, log: LayerLog
    ) -> None:
        name = str(getattr(execute_many, "__qualname__", f"{definition.class_name}.execute_many"))
        self._name = name.rpartition("<locals>.")[2]
        self._execute_many: Callable[[list[Any]], Awaitable[Any]] = as_async(execute_many)
        self._size = definition.group_size
        self._wait_ms = definition.group_wait_ms
        self._parallelism = definition.group_parallelism
        self._runtime = runtime
        self._groups = runtime.groups
        self._log = log
        self._open: dict[str, _Group] = {}
        self._due: dict[_Group, None] = {}
        self._has_warned = False
        self._called: set[asyncio.Task[None]] = set()
        if advice := _advice(definition, runtime.groups.capacity):
            log.warning(advice)

    async def process(self, ctx: LayerContext[Any], item: Any) -> Any:
        """Return the result of one item once the call for its group has ended, or raise its error."""
        delivery, lease = CURRENT_DELIVERY.get(), self._runtime.lease
        assert delivery is not None
        grouped = _GroupedItem(item, ctx.claim, delivery, 0 if lease is None else lease.losses)
        self._add(grouped)
        try:
            value, error, traceback = await grouped.outcome
        finally:
            self._remove(grouped)
        if error is None:
            return value
        if isinstance(error, _LeaseLost):
            ctx.give_up()
        try:
            raise error.with_traceback(traceback)
        finally:
            # The traceback refers to this frame, which would keep the error alive in turn.
            del error, traceback

    # Groups

    def _add(self, grouped: _GroupedItem) -> None:
        batch = grouped.claim.batch or ""
        group = self._open.get(batch)
        if group is None:
            group = _Group(batch, CURRENT_HOOK.get()._replace(item_id=""))
            due = self._runtime.clock.now() + self._wait_ms
            self._groups.open(group, due, partial(self._set_due, group))
            if batch:
                self._open[batch] = group
                group.timer = grouped.loop.call_later(self._wait_ms / 1000, self._set_due, group)
        grouped.group = group
        group.items[grouped] = None
        grouped.set_waiting(True)
        self._groups.waiting += 1
        if len(group.items) >= self._size or not batch:
            # An item outside of a batch has parameters of its own.
            self._open.pop(batch, None)
            self._set_due(group)
        else:
            self._groups.on_waiting()

    def _remove(self, grouped: _GroupedItem) -> None:
        """Remove an item that has its outcome, or that no longer waits for it."""
        grouped.set_waiting(False)
        group, call = grouped.group, grouped.call
        if group is None or group.items.pop(grouped, self) is self:
            return
        if not group.is_called:
            self._groups.waiting -= 1
            if not group.items:
                self._close(group)
        elif call is not None:
            grouped.call = None
            call.leave()

    def _set_due(self, group: _Group) -> None:
        """Call a group now, or as soon as `group_parallelism` allows."""
        if not group.is_due:
            group.is_due = True
            self._due[group] = None
            self._call_due()

    def _call_due(self) -> None:
        while self._due and (self._parallelism is None or len(self._called) < self._parallelism):
            group = next(iter(self._due))
            self._close(group)
            group.is_called = True
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._call_group(group), context=self._new_context())
            self._called.add(task)

    def _close(self, group: _Group) -> None:
        """Let a group take no more items and wait no longer."""
        if group.timer is not None:
            group.timer.cancel()
        if self._open.get(group.batch) is group:
            del self._open[group.batch]
        self._due.pop(group, None)
        self._groups.close(group, len(group.items))

    def _new_context(self) -> Context:
        # Not that of an item: nothing that its hooks have set reaches another one.
        return self._groups.context.copy()

    # Calls

    async def _call_group(self, group: _Group) -> None:
        """Call `execute_many` for a group, and after an error for its halves, until each item has its outcome."""
        task = asyncio.current_task()
        assert task is not None
        try:
            parts = [list(group.items)]
            while parts:
                if part := [it for it in parts.pop() if it in group.items and not it.outcome.done()]:
                    parts += await self._call(group, part)
        except BaseException as error:
            for it in group.items:
                it.set_error(error)
            raise
        finally:
            self._called.discard(task)
            self._call_due()

    async def _call(self, group: _Group, part: Sequence[_GroupedItem]) -> Sequence[list[_GroupedItem]]:
        """Call it for some items; return the parts for which it is to be called again, the last one first."""
        task = asyncio.get_running_loop().create_task(self._execute(group.scope, part), context=self._new_context())
        self._groups.calls[task] = part[0].claim
        task.add_done_callback(self._groups.calls.pop)
        call = _Call(len(part), task)
        for it in part:
            it.call = call
        await call.ended
        for it in part:
            it.call = None
        if call.is_abandoned:
            return ()
        items, returned, error = task.result()
        if error is not None or any(isinstance(it, BaseException) for it in _sequence(returned) or ()):
            deliveries = [it.delivery for it in items]
            for it in items:
                # The error of one may quote what another brought.
                it.delivery.beside = deliveries
        if error is None:
            self._set_results(items, returned)
            return ()
        if len(items) == 1 or concerns_whole_call(error):
            # A limit also holds for the parts that have not been called since their whole has failed.
            for it in items if rate_limit(error) is None else tuple(group.items):
                it.set_error(error)
            return ()
        self._log_halves(items, error)
        for it in items:
            it.set_waiting(True)
        half = (len(items) + 1) // 2
        return list(items[half:]), list(items[:half])

    def _log_halves(self, items: Sequence[_GroupedItem], error: BaseException) -> None:
        """Warn of the first call that is repeated by halves: if they succeed, nothing else tells of its error."""
        if self._has_warned and not self._log.verbose:
            return
        # Its secrets are in no line.
        CURRENT_DELIVERY.set(items[0].delivery)
        text = f"A call for {len(items)} items has failed and is repeated by halves: {describe_error(error)}"
        if self._has_warned:
            self._log.debug(text)
        else:
            self._has_warned = True
            self._log.warning(f"{text} (later ones are logged at DEBUG)")

    async def _execute(self, scope: HookScope, part: Sequence[_GroupedItem]) -> _Answer:
        """Call the hook, in a task of its own; any error of user code is returned."""
        CURRENT_DELIVERY.set(_CallScope(self._runtime, part))
        CURRENT_HOOK.set(scope)
        CURRENT_STEP.set(part[0].step)
        task = asyncio.current_task()
        assert task is not None
        try:
            items = await self._still_leased(part)
            if not items:
                return _Answer((), ())
            for it in items:
                it.set_waiting(False)
            return _Answer(items, await self._execute_many([it.item for it in items]))
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError) and task.cancelling() > 0
            if is_cancelled or is_program_exit(error, task, task.get_loop()):
                raise
            return _Answer([it for it in part if not it.outcome.done()], error=error)

    async def _still_leased(self, part: Sequence[_GroupedItem]) -> Sequence[_GroupedItem]:
        """Return the items whose claims are still this worker's; they may have waited for longer than a lease."""
        lease = self._runtime.lease
        if lease is None:
            return part
        for it in part:
            if lease.may_have_expired(it.lease_losses) and not await lease.holds(it.lease_losses):
                it.set_error(_LeaseLost())
        return [it for it in part if not it.outcome.done()]

    def _set_results(self, items: Sequence[_GroupedItem], returned: Any) -> None:
        if error := self._misfit(returned, len(items)):
            for it in items:
                it.set_error(error)
            return
        for it, result in zip(items, returned, strict=True):
            it.set_result(result)

    def _misfit(self, returned: object, count: int) -> Exception | None:
        """Return the error if a call has not returned one result for each of its items."""
        want = "return a list with one result, or exception, for each item, in their order"
        if (results := _sequence(returned)) is None:
            got = "None" if returned is None else type(returned).__name__
            return NonRetryable(f"{self._name} returned {got}, not a sequence; {want}")
        if (found := len(results)) == count:
            return None
        # Not final: a model may leave one out, and answer rightly when it is asked again.
        return ValueError(f"{self._name} returned {quantity(found, 'result')} for {quantity(count, 'item')}; {want}")
