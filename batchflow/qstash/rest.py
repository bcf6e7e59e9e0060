"""The REST API of QStash, as an app uses it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import from_json

from batchflow.errors import InputError, NotFoundError, StoreError, StoreUnavailable
from batchflow.wire.submissions import Submission

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0
"""The seconds that QStash has to answer."""

_BAD_REQUEST = 400
_NOT_FOUND = 404
_REFUSED = frozenset({402, 412, 413})


class QStashRest:
    """The requests of one app to one QStash, with its token.

    A request that has no answer, or one of 429 or 5xx, raises `StoreUnavailable`; others that are refused raise what
    each method says. `transport` replaces the network in tests.
    """

    def __init__(self, url: str, token: str, *, transport: "httpx.AsyncBaseTransport | None" = None) -> None:
        self.url = url.rstrip("/")
        """Its address."""
        self._token = token
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def submit(self, submission: Submission) -> str | None:
        """Submit something about a run; returns None, or the reason for which QStash does not take it.

        That may be that the run has ended or does not exist.

        Raises:
            StoreError: QStash refuses it, as what is too large, or cannot take it now (`StoreUnavailable`).
        """
        status, text = await self._send("POST", submission.path, submission.headers, submission.body)
        if status == _BAD_REQUEST:
            return _reason(text)
        self._check(status, text)
        return None

    async def post(self, submission: Submission) -> Any:
        """Make a request; returns the JSON of its answer.

        Raises:
            InputError: QStash refuses it; the message says why. `StoreUnavailable` as above.
        """
        status, text = await self._send("POST", submission.path, submission.headers, submission.body)
        return self._answer(status, text)

    async def change(self, method: str, path: str, query: Mapping[str, str | Sequence[str]] | None = None) -> None:
        """Make a change whose answer has nothing to read.

        Raises:
            NotFoundError: there is nothing to change. `InputError` and `StoreUnavailable` as above.
        """
        self._check_answer(*await self._send(method, path, query=query))

    async def get(self, path: str, query: Mapping[str, str | Sequence[str]] | None = None) -> Any:
        """Read something; returns the JSON of the answer.

        Raises:
            NotFoundError: it does not exist. `InputError` and `StoreUnavailable` as above.
        """
        status, text = await self._send("GET", path, query=query)
        return self._answer(status, text)

    async def delete(
        self, path: str, query: Mapping[str, str | Sequence[str]] | None = None, body: bytes | None = None
    ) -> Any:
        """Delete something; returns the JSON of the answer, None if it is empty.

        Raises:
            InputError: QStash refuses it. `StoreUnavailable` as above.
        """
        status, text = await self._send("DELETE", path, {}, body, query)
        return self._answer(status, text)

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
    ) -> tuple[int, str]:
        import httpx

        sent = {**(headers or {}), "authorization": f"Bearer {self._token}"}
        try:
            response = await self._open().request(
                method,
                self.url + path,
                headers=[(name.encode(), value.encode()) for name, value in sent.items()],
                content=body,
                params=cast("Any", query),
            )
        except httpx.HTTPError as error:
            # Its text may have the URL, which is not secret, and never the token.
            raise StoreUnavailable(f"QStash at {self.url} does not answer ({type(error).__name__})") from error
        return response.status_code, response.text

    def _open(self) -> "httpx.AsyncClient":
        import httpx

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # The connections of another loop are of no use here.
            self._client = httpx.AsyncClient(timeout=TIMEOUT_S, transport=self._transport)
            self._loop = loop
        return self._client

    def _answer(self, status: int, text: str) -> Any:
        self._check_answer(status, text)
        return from_json(text) if text else None

    def _check_answer(self, status: int, text: str) -> None:
        """Raise the error of an answer that refuses what a user has asked for."""
        if status == _NOT_FOUND:
            raise NotFoundError(_reason(text))
        if 400 <= status < 500 and status not in _REFUSED and status not in (401, 403, 429):
            raise InputError(_reason(text), status=status)
        self._check(status, text)

    def _check(self, status: int, text: str) -> None:
        """Raise the error of an answer that is not a success."""
        if 200 <= status < 300:
            return
        if status in (401, 403):
            raise StoreUnavailable(f"QStash at {self.url} does not accept the token; check QSTASH_TOKEN")
        if status in _REFUSED:
            raise QStashRefused(f"QStash at {self.url} refuses it ({status}): {_reason(text)}")
        raise StoreUnavailable(f"QStash at {self.url} answered {status}: {_reason(text)}")


class QStashRefused(StoreError):
    """QStash, or what we can do with it, will never take this."""

    retryable = False


def _reason(text: str) -> str:
    """The sentence of an error of QStash."""
    try:
        answer: Any = from_json(text)
    except ValueError:
        return text[:200] or "without a reason"
    # That of a batch is a list.
    match answer:
        case {"error": str(reason)} | [{"error": str(reason)}, *_]:
            return reason
        case _:
            return text[:200]
