"""Group commit: everything asked for in one turn of the event loop goes to the store in one transaction.

While a group is being written the next one gathers, so that the busier a program is, the larger its groups are.
"""

import asyncio
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from batchflow.errors import StoreError

ORDER = (
    "enlist",
    "declare",
    "pin",
    "unpin",
    "pause",
    "resume",
    "open_batch",
    "record",
    "record_with_effects",
    "settle",
    "publish",
    "renew",
    "dismiss",
    "expire",
    "notify",
    "cancel_run",
    "cancel_all",
    "cancel_batch",
    "pause_batch",
    "resume_batch",
    "redrive",
    "sweep_cancelled",
    "remove_idle",
    "mark",
    "forget",
    "prune",
    "reconcile",
    "claim",
)
"""The order of verbs within a group: what ends work comes before what starts it, and claiming sees the whole group."""

_RANK = {verb: rank for rank, verb in enumerate(ORDER)}


def rank(verb: str) -> int:
    """The place of a verb in that order; those that read come after all of it."""
    return _RANK.get(verb, len(ORDER))


TELLING = frozenset(
    {
        "publish",
        "open_batch",
        "record_with_effects",
        "settle",
        "declare",
        "pin",
        "unpin",
        "resume",
        "dismiss",
        "expire",
        "notify",
        "cancel_run",
        "cancel_all",
        "cancel_batch",
        "resume_batch",
        "redrive",
        "sweep_cancelled",
        "reconcile",
    }
)
"""Verbs after which something may be due, or may have ended."""


class Operation(NamedTuple):
    """A verb with its arguments, and where its answer goes."""

    verb: str
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]


_new: Callable[..., Operation] = tuple[Any, ...].__new__
_VERB: Callable[[Operation], str] = itemgetter(Operation._fields.index("verb"))

Answers: TypeAlias = list[tuple[bool, Any]]
"""For each operation in order: whether it was carried out, and its answer or the exception."""

Submit: TypeAlias = Callable[[list[Operation], Callable[[Answers], None]], None]
"""Writes a group and then calls back, on the event loop, with the answers."""


class Grouping:
    """Gathers operations and hands them over, one group at a time.

    `on_change` is called after a group after which something may be due, or may have ended.
    """

    def __init__(self, submit: Submit, on_change: Callable[[], None]) -> None:
        self._submit = submit
        self._on_change = on_change
        self._gathering: list[Operation] = []
        self._scheduled = False
        self._writing = False
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] | None = None

    def add(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Ask for `verb`; the future has its answer once the group it went with is durable.

        Raises:
            StoreError: it belongs to another event loop than the one it is called on; nothing was asked for.
        """
        loop = self._loop
        if asyncio.get_running_loop() is not loop:
            raise StoreError(
                "the app runs on another event loop than the one it is called on; from another thread write "
                "flow.trigger_sync(…), or asyncio.run_coroutine_threadsafe(…, loop_of_the_app)"
            )
        # Neither `create_future` nor the tuple's constructor: each is a call more, several times for every item.
        future: asyncio.Future[Any] = asyncio.Future(loop=loop)
        self._gathering.append(_new(Operation, (verb, arguments, future)))
        if not self._scheduled and not self._writing:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._scheduled = False
        if not self._gathering or self._writing:
            return
        group, self._gathering = self._gathering, []
        self._writing = True
        self._submit(group, lambda answers: self._written(group, answers))

    def _written(self, group: list[Operation], answers: Answers) -> None:
        self._writing = False
        for operation, (carried_out, answer) in zip(group, answers, strict=True):
            if operation.future.cancelled():
                continue
            if carried_out:
                operation.future.set_result(answer)
            else:
                operation.future.set_exception(answer)
                # Who gave up waiting is not told of it by a warning at exit.
                operation.future.exception()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if not TELLING.isdisjoint(map(_VERB, group)):
            self._on_change()
        # After the tasks that were just woken and those that these wake, so that what they ask for goes along.
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._loop.call_soon, self._flush)

    async def drain(self) -> None:
        """Wait until everything asked for so far is written."""
        while self._gathering or self._writing:
            self._drained = self._loop.create_future()
            await self._drained
