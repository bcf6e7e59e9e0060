"""Delivery of claims: to the handlers of this process, and of calls over HTTP."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

from batchflow.core.call import (
    CALL_DESTINATION,
    MAX_CALL_MS,
    Body,
    CallRequest,
    CallResult,
    call_request_codec,
    call_result_codec,
    without_userinfo,
)
from batchflow.core.codec import DEFAULT_SIZE_LIMIT, SizeLimit
from batchflow.core.duration import humanize_duration
from batchflow.core.message import Claim
from batchflow.core.ports import Handler, Interrupts, Lease, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement, dead, done, retry
from batchflow.errors import NonRetryable, TooLarge

if TYPE_CHECKING:
    import httpx

_SPARE_MS = 60_000


class HttpCaller:
    """Makes the HTTP calls of runs, and retries by their policy the ones that are not answered with 2xx.

    The last answer is the result, whatever its status; a call without any answer fails. Since a call may be repeated
    after a crash, it has an `Idempotency-Key`, the same each time, unless the run has set one.
    """

    def __init__(self, limit: SizeLimit = DEFAULT_SIZE_LIMIT) -> None:
        self.limit = limit
        self._client: httpx.AsyncClient | None = None

    @property
    def timeout_ms(self) -> int | None:
        """See the port; the request's own timeout is shorter."""
        return MAX_CALL_MS + _SPARE_MS

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """See the port."""
        request = call_request_codec().decode(claim.body)
        policy = claim.retry or RetryPolicy.none()
        failures = claim.failures + 1
        after: int | None = None
        try:
            answer = await self._call(request, claim.id)
            text = call_result_codec().encode(answer)
            self.limit.check(text, _answer_of(request))
        except (NonRetryable, TooLarge) as error:
            return dead(claim, str(error))
        except Exception as error:
            if failures >= policy.attempts:
                return dead(claim, _why(error, request))
            why = _why(error, request)
        else:
            if 200 <= answer.status < 300 or failures >= policy.attempts:
                return done(claim, text)
            why = f"answered {answer.status}"
            after = _retry_after(answer)
        delay = policy.delay_ms(failures, chance=runtime.entropy.chance()) if after is None else after
        return retry(claim, runtime.clock.now() + delay, why)

    async def _call(self, request: CallRequest, id: str) -> CallResult:
        headers = {"idempotency-key": id, **request.headers}
        content = request.body.content or None
        async with asyncio.timeout(request.timeout_ms / 1000):
            async with self._open().stream(request.method, request.url, headers=headers, content=content) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > self.limit.max_bytes:
                        raise TooLarge(self.limit.too_large_message(_answer_of(request), _size(response, len(body))))
                found: dict[str, str] = {}
                for name, value in response.headers.multi_items():
                    found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
                return CallResult(status=response.status_code, headers=found, body=Body.of(bytes(body)))

    def _open(self) -> "httpx.AsyncClient":
        if self._client is None:
            # Imported on first use: a program without calls does not need it.
            import httpx

            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
            self._client = httpx.AsyncClient(timeout=None, limits=limits, follow_redirects=True)
        return self._client

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _answer_of(request: CallRequest) -> str:
    return f"the answer of call '{request.step}' ({without_userinfo(request.url)})"


def _size(response: "httpx.Response", read: int) -> str:
    """The size of an answer in bytes, of which `read` have been read."""
    declared = response.headers.get("content-length", "")
    # The header may be wrong, and for a compressed body it is the compressed size.
    whole = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else 0
    return f"{whole:,}" if whole >= read else f"at least {read:,}"


def _why(error: Exception, request: CallRequest) -> str:
    url = without_userinfo(request.url)
    if isinstance(error, TimeoutError):
        return f"no answer of {url} within {humanize_duration(request.timeout_ms)}"
    return f"no answer of {url}: {type(error).__name__}{f': {error}' if str(error) else ''}"


def _retry_after(answer: CallResult) -> int | None:
    """The delay of `Retry-After` in ms; only seconds are supported."""
    text = answer.headers.get("retry-after", "")
    return int(text) * 1000 if text.isdecimal() and len(text) < 6 else None


class Courier:
    """Delivers claims to the handlers of this process, and calls to `caller`."""

    def __init__(self, endpoints: Mapping[str, Handler], caller: Handler, runtime: Runtime) -> None:
        self._endpoints = endpoints
        self._caller = caller
        self._destinations: tuple[str, ...] = ()
        self._runtime = runtime

    @property
    def interrupts(self) -> Interrupts:
        """The interrupts of the claims that it delivers."""
        return self._runtime.interrupts

    @property
    def destinations(self) -> tuple[str, ...]:
        """The destinations that it can deliver to. The same object until a handler is added."""
        # There may be thousands, and each claim reads them; handlers are only ever added.
        if len(self._destinations) != len(self._endpoints) + 1:
            self._destinations = (CALL_DESTINATION, *self._endpoints)
        return self._destinations

    def timeout_ms(self, destination: str) -> int | None:
        """The time limit of one attempt."""
        return self._handler(destination).timeout_ms

    def is_light(self, destination: str) -> bool:
        """True if a delivery only waits for an answer, and so does not take up a slot."""
        return destination == CALL_DESTINATION

    def deliver(self, claim: Claim) -> Awaitable[Settlement | None]:
        """Deliver a claim in the current task. None: it was lost or could not be recorded, and is to be released."""
        lease = self._runtime.lease
        if lease is not None and lease.may_have_expired(lease.losses):
            return self._deliver_under(lease, claim)
        return self._handler(claim.destination).deliver(claim, self._runtime)

    def _handler(self, destination: str) -> Handler:
        return self._caller if destination == CALL_DESTINATION else self._endpoints[destination]

    async def _deliver_under(self, lease: Lease, claim: Claim) -> Settlement | None:
        """Deliver it if the lease still holds."""
        if not await lease.holds(lease.losses):
            return None
        return await self._handler(claim.destination).deliver(claim, self._runtime)
