"""The progress of a batch or a run as a stream of server-sent events."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from batchflow.errors import StoreUnavailable
from batchflow.http.openapi import error_responses, event_stream

Watched = TypeVar("Watched")

MAX_FAILED_READS = 20
"""A progress stream ends after so many failed reads in a row; a client that connects again is told the reason."""

_SHUTDOWN_GRACE_S = 2.0  # a stream that waits ends at once when the server stops; one that sends has this long


def stream_options(model: type[BaseModel]) -> dict[str, Any]:
    """The options of a route that answers with `progress_response`, of documents of a model."""
    return {
        "responses": {**error_responses(404, 422, 503), 200: event_stream(model)},
        "response_class": EventSourceResponse,
    }


def progress_response(
    read: Callable[[], Awaitable[Watched | None]],
    first: Watched,
    describe: Callable[[Watched], tuple[str, bool]],
    interval: float,
) -> EventSourceResponse:
    """The response that streams what `read` returns; it ends with that, a disconnect, or when the server stops.

    `describe` returns its JSON text, and True if it has ended.
    """
    stopping = anyio.Event()
    events = progress_events(read, first, describe, interval, stopping)
    return EventSourceResponse(events, shutdown_event=stopping, shutdown_grace_period=_SHUTDOWN_GRACE_S)


async def progress_events(
    read: Callable[[], Awaitable[Watched | None]],
    first: Watched,
    describe: Callable[[Watched], tuple[str, bool]],
    interval: float,
    stopping: anyio.Event,
) -> AsyncIterator[ServerSentEvent]:
    """The batch or run now and after each change; the last event is `done`.

    It is read every `interval` seconds, which bounds the cost of many clients and many changes.
    """
    failures = 0
    sent: Watched | None = None
    latest: Watched | None = first
    while latest is not None and failures < MAX_FAILED_READS:
        if latest != sent:
            sent, (text, is_final) = latest, describe(latest)
            yield ServerSentEvent(data=text, event="done" if is_final else None)
            if is_final:
                return
        with anyio.move_on_after(interval):
            await stopping.wait()
            return
        try:
            latest, failures = await read(), 0
        except StoreUnavailable:
            failures += 1
