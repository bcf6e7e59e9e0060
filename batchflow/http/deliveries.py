"""The requests of an engine that calls the app over HTTP: to its functions, and to one route for batches."""

from collections.abc import Mapping
from typing import Protocol

from fastapi import APIRouter, Request, Response

from batchflow.http.access import names_this_server
from batchflow.http.bodies import read_body
from batchflow.http.reserved_routes import DELIVERIES

MAX_DELIVERY = 64 * 2**20
"""The largest body of a delivery to a function, in bytes: it has all steps of a run."""

MAX_NAMED = 2**20
"""The largest body of a delivery that names a message, in bytes."""


class DeliveryAnswer(Protocol):
    """The answer to a delivery."""

    @property
    def status(self) -> int:
        """Its status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""
        ...

    @property
    def body(self) -> bytes:
        """Its body."""
        ...


class Deliveries(Protocol):
    """Answers the requests of an engine that calls the functions over HTTP, and verifies that they come from it."""

    def is_delivery(self, headers: Mapping[str, str]) -> bool:
        """True for the headers, in lower case, of a request that only the engine sends."""
        ...

    def check_sender(self, route: str, headers: Mapping[str, str]) -> None:
        """Check, before its body is read, that the engine may have sent a request to this route.

        Raises:
            InputError: it has not (401).
        """
        ...

    def start_id(self, route: str, url: str | None, headers: Mapping[str, str], body: bytes) -> str | None:
        """The id of the run that a plain request of the engine starts, however often it is repeated; None for others.

        `url` is that of the request, as `own_url` returns it.
        """
        ...

    async def answer(self, route: str, url: str | None, headers: Mapping[str, str], body: bytes) -> DeliveryAnswer:
        """Answer one to this route; `url` is that of the request, as `own_url` returns it.

        Raises:
            InputError: the engine has not sent it (401), or it is not what it sends.
        """
        ...

    async def wake(self, url: str | None, headers: Mapping[str, str], body: bytes) -> DeliveryAnswer:
        """Answer one to `DELIVERIES`: it names a message of the app's store, or says that something may be due.

        Raises:
            InputError: as for `answer`.
        """
        ...


def own_url(request: Request) -> str | None:
    """The URL of a request without its query; None if its `Host`, which anybody may invent, can name another server."""
    return str(request.url.replace(query="", fragment="")) if names_this_server(request) else None


class DeliveryEndpoint:
    """The route to which the engine delivers the messages of batches."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    def add_routes(self, router: APIRouter) -> None:
        """Add the route, which only the engine calls."""
        router.add_api_route(DELIVERIES, self.wake, methods=["POST"], include_in_schema=False)

    async def wake(self, request: Request) -> Response:
        """Executes one message of a batch. The engine signs its requests."""
        body = await read_body(request, MAX_NAMED)
        answer = await self._deliveries.wake(own_url(request), request.headers, body.content)
        return Response(answer.body, answer.status, dict(answer.headers))
