"""A batch as a stream of server-sent events."""

from collections.abc import AsyncIterator, Callable

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent

from batchflow.core.batch import Batch
from batchflow.core.store import Batches
from batchflow.errors import StoreUnavailable
from batchflow.http.answers import BatchAnswer

PATIENCE = 20
"""As many looks in a row may fail before the stream ends: a client that connects again then hears why."""

_FAREWELL_S = 2.0
# A stream that is waiting ends by itself when the server stops; one that is sending gets this long.


def stream(
    batches: Batches, batch: Batch, answer: Callable[[Batch], BatchAnswer], interval: float
) -> EventSourceResponse:
    """The response that streams a batch. It ends with the batch, when the client goes, or when the server stops."""
    stopping = anyio.Event()
    events = progress(batches, batch, answer, interval, stopping)
    return EventSourceResponse(events, shutdown_event=stopping, shutdown_grace_period=_FAREWELL_S)


async def progress(
    batches: Batches, batch: Batch, answer: Callable[[Batch], BatchAnswer], interval: float, stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    """The batch now, then whenever it has changed; once it is over, a last event `done`, and the end.

    It is looked at every `interval` seconds, so that many clients and many changes cost no more than that.
    """
    failures = 0
    known: Batch | None = None
    now: Batch | None = batch
    while now is not None and failures < PATIENCE:
        if now != known:
            known, told = now, answer(now)
            yield ServerSentEvent(data=told.model_dump_json(by_alias=True), event="done" if told.is_final else None)
            if told.is_final:
                return
        with anyio.move_on_after(interval):
            await stopping.wait()
            return
        try:
            now, failures = await batches.batch(batch.id), 0
        except StoreUnavailable:
            failures += 1
