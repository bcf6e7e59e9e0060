"""The REST API of QStash, as an app uses it."""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pydantic_core import from_json

from batchflow.engine.push_client import PushClient, PushError, PushRequest
from batchflow.errors import BatchflowError, InputError, NotFoundError, StoreError, StoreUnavailable
from batchflow.qstash.rest_client import open_client
from batchflow.wire.submissions import Submission

if TYPE_CHECKING:
    import httpx

TIMEOUT_MS = 30_000
"""The time that QStash has to answer."""

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
        self._headers = (("authorization", f"Bearer {token}"), ("user-agent", "Python"))
        self._transport = transport
        self._client: PushClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def submit(self, submission: Submission) -> str | None:
        """Submit something about a run; returns None, or the reason for which QStash does not take it.

        That may be that the run has ended or does not exist.

        Raises:
            StoreError: QStash refuses it, as what is too large, or cannot take it now (`StoreUnavailable`).
        """
        status, content = await self._send("POST", submission.path, submission.headers, submission.body)
        if status == _BAD_REQUEST:
            return _reason(content)
        self._check(status, content)
        return None

    async def post(self, submission: Submission) -> Any:
        """Make a request; returns the JSON of its answer.

        Raises:
            InputError: QStash refuses it; the message says why. `StoreUnavailable` as above.
        """
        status, content = await self._send("POST", submission.path, submission.headers, submission.body)
        return self._answer(status, content)

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
        status, content = await self._send("GET", path, query=query)
        return self._answer(status, content)

    async def delete(
        self,
        path: str,
        query: Mapping[str, str | Sequence[str]] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Delete something; returns the JSON of the answer, None if it is empty.

        Raises:
            InputError: QStash refuses it. `StoreUnavailable` as above.
        """
        status, content = await self._send("DELETE", path, headers, body, query)
        return self._answer(status, content)

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
    ) -> tuple[int, bytes]:
        # The path may have the URL of a call, with blanks.
        url = self.url + path.replace(" ", "%20")
        if query:
            url += f"?{urlencode(query, doseq=True)}"
        request = PushRequest(method, url, (*self._headers, *(headers or {}).items()), body or b"", TIMEOUT_MS)
        try:
            response = await self._open().send(request)
        except PushError as error:
            raise StoreUnavailable(f"QStash at {self.url} does not answer ({error})") from error
        return response.status, response.body

    def _open(self) -> PushClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # The connections of another loop are of no use here.
            self._client = open_client(self.url, self._transport)
            self._loop = loop
        return self._client

    @contextmanager
    def reading(self) -> Generator[None]:
        """Read an answer.

        Raises:
            StoreUnavailable: it has not what an answer of QStash has.
        """
        try:
            yield
        except BatchflowError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StoreUnavailable(f"what answers at {self.url} is not QStash; check QSTASH_URL") from error

    def _answer(self, status: int, content: bytes) -> Any:
        self._check_answer(status, content)
        with self.reading():
            return from_json(content) if content else None

    def _check_answer(self, status: int, content: bytes) -> None:
        """Raise the error of an answer that refuses what a user has asked for."""
        if status == _NOT_FOUND:
            raise NotFoundError(_reason(content))
        if 400 <= status < 500 and status not in _REFUSED and status not in (401, 403, 429):
            raise InputError(_reason(content), status=status)
        self._check(status, content)

    def _check(self, status: int, content: bytes) -> None:
        """Raise the error of an answer that is not a success."""
        if 200 <= status < 300:
            return
        if status in (401, 403):
            raise TokenRefused(f"QStash at {self.url} does not accept the token; check QSTASH_TOKEN")
        if status in _REFUSED:
            raise QStashRefused(f"QStash at {self.url} refuses it ({status}): {_reason(content)}")
        raise StoreUnavailable(f"QStash at {self.url} answered {status}: {_reason(content)}")


class TokenRefused(StoreUnavailable):
    """QStash does not accept the token. Work waits until it does, in this process or in one with another token."""


class QStashRefused(StoreError):
    """QStash, or what we can do with it, will never take this."""

    retryable = False


def _reason(content: bytes) -> str:
    """The sentence of an error of QStash."""
    text = content[:200].decode(errors="replace")
    try:
        answer: Any = from_json(content)
    except ValueError:
        return text or "without a reason"
    # That of a batch is a list.
    match answer:
        case {"error": str(reason)} | [{"error": str(reason)}, *_]:
            return reason
        case _:
            return text
