"""What an app can do with its runs: start them, look at them, notify and cancel them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, Unpack, cast

from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.core.message import WorkerStatus
from batchflow.core.run import RunState, Waiter
from batchflow.engine.engine import Engine
from batchflow.errors import InputError, NotFoundError
from batchflow.serve import runs
from batchflow.serve.functions import ServedFunction
from batchflow.serve.runs import RunHandle, RunPage, RunSelection, validate_label_filter
from batchflow.serve.trigger import TriggerOptions
from batchflow.serve.validation import format_value, validate_run_id
from batchflow.serve.waits import ANY_CODEC

Payload = TypeVar("Payload")
Result = TypeVar("Result")
T = TypeVar("T")


class Operations:
    """The part of `Batchflow` that asks; what serves and runs is in the other."""

    engine: Engine
    _served: dict[str, ServedFunction[Any, Any]]
    _workflows: dict[str, Workflow[Any, Any]]

    async def trigger(
        self, function: ServedFunction[Payload, Result], payload: Payload, **options: Unpack[TriggerOptions]
    ) -> RunHandle[Result]:
        """Start a run of a served function: as `function.trigger`, which says what the options are."""
        _check_function(function, "trigger")
        (handle,) = await function.trigger_many([payload], **options)
        return handle

    async def trigger_many(
        self, function: ServedFunction[Payload, Result], payloads: Sequence[Payload], **options: Unpack[TriggerOptions]
    ) -> list[RunHandle[Result]]:
        """Start a run of each payload, all of them or none; their handles, in the same order.

        The options are those of `trigger` but for `run_id` and `dedup_id`, which name one run.
        """
        _check_function(function, "trigger_many")
        return await function.trigger_many(payloads, **options)

    def trigger_sync(
        self, function: ServedFunction[Payload, Result], payload: Payload, **options: Unpack[TriggerOptions]
    ) -> RunHandle[Result]:
        """`trigger`, for callers that are not async: a plain script, a view of another framework, a sync step.

        Where the app is running, in another thread of this process, it is used; else its store is opened, and closed
        again after the run is stored.

        Raises:
            InputError: it is called on the thread of a running event loop, which it would block; or the app does not
                run, and its state is in memory, where the run would be lost.
        """
        return self._from_outside("trigger", lambda: self.trigger(function, payload, **options))

    def run(self, id: str) -> RunHandle[Any]:
        """The handle of any run: `await flow.run(id).status()` has its state, its steps and their times.

        Its result comes as plain data; `function.run(id)` knows the type.
        """
        return RunHandle(validate_run_id(id, "id"), ANY_CODEC, self.engine)

    async def runs(
        self,
        *,
        state: RunState | None = None,
        function: ServedFunction[Any, Any] | str | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> RunPage:
        """A page of runs, the latest first: those of one function (itself, or its route), state, label.

        Raises:
            InputError: the cursor, the limit or the state is none.
            NotFoundError: there is no such function.
        """
        return await runs.list_runs(
            self.engine, state=state, destination=self._route(function), label=label, cursor=cursor, limit=limit
        )

    async def batches(
        self, *, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> list[BatchHandle[Any]]:
        """The handles of the latest batches of this app's workflows, newest first; with `label` those that have it.

        Raises:
            InputError: the label is no text.
        """
        sought = validate_label_filter(label, "batch")
        found = await self.engine.store.batches(label=sought, open_only=open_only, limit=limit)
        # A store may hold batches of workflows that this app does not have.
        return [self._workflows[it.workflow].batch(it.id) for it in found if it.workflow in self._workflows]

    async def cancel(
        self,
        ids: str | Sequence[str] = (),
        *,
        label: str | None = None,
        function: ServedFunction[Any, Any] | str | None = None,
    ) -> int:
        """End runs, and what they wait for: those with these ids, or all of a label or function; how many there were.

        With a label alone the batches of that label end too, and are counted. A run that waits ends at once, one at
        work at its next step.

        Raises:
            InputError: nothing says which runs, or ids stand beside a label or function.
            NotFoundError: there is no such function.
        """
        # What is no id, such as a handle, is refused as one.
        several = isinstance(cast("object", ids), Iterable) and not isinstance(ids, str)
        named = tuple(ids) if several else (cast("str", ids),)
        return await runs.cancel_runs(self.engine, RunSelection(named, label, self._route(function)))

    async def notify(self, event_id: str, data: object = None, run_id: str | None = None) -> Sequence[str]:
        """Give `data` to the runs that wait for `event_id`; their ids.

        With `run_id` it is for that run alone, and kept until the run waits for it; () where there is no such run.

        Raises:
            InputError: the event id is none; `TooLarge`, which is one: the data is.
            UnserializableError: the data has no JSON form.
        """
        return await runs.notify_event(self.engine, event_id, data, run_id)

    async def waiters(self, event_id: str) -> Sequence[Waiter]:
        """Who waits for an event, those that have waited longest first."""
        return await runs.list_waiters(self.engine, event_id)

    async def workers(self) -> Sequence[WorkerStatus]:
        """The workers of this app's store, by name: since when each is there, its last heartbeat, what it holds,
        how many of its threads hang.

        One that died is lost until its claims are taken back, and then not there any more.
        """
        return await self.engine.store.workers()

    def _route(self, function: ServedFunction[Any, Any] | str | None) -> str | None:
        if function is None:
            return None
        if not isinstance(function, str):
            _check_function(function, "endpoint")
        route = function if isinstance(function, str) else function.endpoint.route
        if route not in self._served:
            known = ", ".join(sorted(self._served)) or "none"
            raise NotFoundError(f"no function is served at '{route}'; there are: {known}", field="function")
        return route

    def _from_outside(self, what: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise InputError(f"'{what}_sync' would block the event loop that runs here; write 'await flow.{what}(…)'")
        loop = self.engine.loop
        if loop is not None:
            return asyncio.run_coroutine_threadsafe(ask(), loop).result()
        if not self.engine.store.is_durable:
            raise InputError(
                f"'{what}_sync' finds no running app, and one whose state is in memory (sqlite://) would lose this at "
                f"once; start the app before, or give it a URL such as sqlite:///batchflow.db"
            )
        return asyncio.run(self._opened(ask))

    async def _opened(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self.engine.open()
        try:
            return await ask()
        finally:
            await self.engine.close()


def _check_function(function: object, what: str) -> None:
    if isinstance(function, type) or not hasattr(function, what):
        raise InputError(
            f"'function' cannot be {format_value(function)}; write what @flow.serve returned", field="function"
        )
