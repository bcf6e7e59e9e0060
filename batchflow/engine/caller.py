"""The HTTP calls of runs. They share connections and nothing else: no cookie or header of one reaches another."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchflow.core.call import (
    MAX_CALL_MS,
    Body,
    CallRequest,
    CallResult,
    call_request_codec,
    call_result_codec,
    final_error,
    is_credential,
    printable_url,
    without_secrets,
)
from batchflow.core.codec import DEFAULT_SIZE_LIMIT, SizeLimit
from batchflow.core.duration import MAX_DURATION_MS, humanize_duration
from batchflow.core.message import Claim
from batchflow.core.ports import Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement, dead, done, retry
from batchflow.engine.http_clients import IS_CALL, HttpClients, os_reason, proxy_variable
from batchflow.errors import NonRetryable, TooLarge
from batchflow.wire import retry_after

if TYPE_CHECKING:
    import httpx

_SPARE_MS = 60_000
_MAX_REDIRECTS = 20
_MAX_SKIPPED_BYTES = 65_536
_DEFAULT_PORTS = {"http": 80, "https": 443}


class HttpCaller:
    """Makes the HTTP calls of runs, and retries by their policy the ones that are not answered with 2xx.

    The last answer is the result, whatever its status; a call without any answer fails. Since a call may be repeated
    after a crash, it has an `Idempotency-Key`, the same each time, unless the run has set one.
    """

    def __init__(self, limit: SizeLimit = DEFAULT_SIZE_LIMIT) -> None:
        self.limit = limit
        self._clients: HttpClients | None = None

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
            answer = await self.call(request, claim.id)
            text = call_result_codec().encode(answer)
            self.limit.check(text, _answer_of(request))
        except (NonRetryable, TooLarge) as error:
            return dead(claim, final_error(failures, str(error)))
        except Exception as error:
            why = call_error(error, request)
            if failures >= policy.attempts:
                return dead(claim, why)
        else:
            if 200 <= answer.status < 300 or failures >= policy.attempts:
                return done(claim, text)
            why = f"answered {answer.status}"
            after = retry_after_ms(answer, runtime.clock.now())
        delay = policy.delay_ms(failures, chance=runtime.entropy.chance()) if after is None else after
        return retry(claim, runtime.clock.now() + delay, why)

    async def call(self, request: CallRequest, id: str, *, follow_redirects: bool = True) -> CallResult:
        """Send the request and its redirects, and read the answer; `id` is its idempotency key.

        Raises:
            NonRetryable: this process cannot make calls.
            TooLarge: the answer is too large.
        """
        if self._clients is None:
            self._clients = HttpClients.open()
        exchange = _Exchange(self._clients, request, self.limit)
        IS_CALL.set(True)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                return await exchange.run(id, _MAX_REDIRECTS if follow_redirects else 0)
        except TimeoutError as error:
            raise _CallError(exchange.late_answer()) from error
        finally:
            IS_CALL.set(False)

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.close()


class _CallError(Exception):
    """A call was not answered; the message is the whole sentence, without secrets."""


class _Exchange:
    """One attempt of a call: its request, the redirects, and the answer."""

    def __init__(self, clients: HttpClients, request: CallRequest, limit: SizeLimit) -> None:
        self._clients = clients
        self._request = request
        self._limit = limit
        self._hop: _Hop | None = None

    async def run(self, id: str, max_redirects: int) -> CallResult:
        """Send the request and up to so many redirects, and read the answer; with 0 a redirect is the answer."""
        import httpx

        headers = {"idempotency-key": id, **self._request.headers}
        cookies = httpx.Cookies()
        request = self._clients.pooled.build_request(
            self._request.method,
            self._request.url,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            content=self._request.body.content or None,
        )
        for _ in range(max_redirects + 1):
            self._hop = hop = _Hop(request, self._hop)
            try:
                response = await hop.send(self._clients)
            except Exception as error:
                if hop.is_answered:
                    raise _CallError(f"{hop.url} redirects to something that is not a URL") from error
                raise _CallError(self._no_answer(hop, error)) from error
            try:
                if (following := response.next_request) is None or not max_redirects:
                    return await self._read(response)
                await _skip_body(response)
            except TooLarge:
                raise
            except Exception as error:
                reason = _reason(error, self._request)
                raise _CallError(f"the answer of {hop.description} cannot be read: {reason}") from error
            finally:
                await response.aclose()
            if following.url.scheme not in ("http", "https"):
                raise _CallError(f"{hop.url} redirects to something other than an HTTP URL")
            cookies.extract_cookies(response)
            self._set_headers(following, request, cookies)
            request = following
        raise _CallError(f"{printable_url(self._request.url)} redirects more than {_MAX_REDIRECTS} times")

    def late_answer(self) -> str:
        """The sentence for an answer that did not come in time."""
        within = f"within {humanize_duration(self._request.timeout_ms)}"
        if self._hop is None:
            return f"no answer of {printable_url(self._request.url)} {within}"
        return f"no answer of {self._hop.description}{self._hop.by_proxy} {within}"

    def _no_answer(self, hop: "_Hop", error: Exception) -> str:
        reason = _reason(error, self._request)
        if hop.is_proxy_at_fault(error):
            return f"no answer of {hop.description}: the proxy {hop.proxy} fails: {reason}"
        return f"no answer of {hop.description}{hop.by_proxy}: {reason}"

    def _set_headers(self, following: "httpx.Request", before: "httpx.Request", cookies: "httpx.Cookies") -> None:
        """Give a redirected request the headers that its host may have, and the cookies of this call."""
        if not _is_same_site(before.url, following.url):
            for name in [name for name in following.headers if is_credential(name)]:
                del following.headers[name]
        elif "cookie" in self._request.headers and "cookie" in before.headers:
            following.headers["cookie"] = before.headers["cookie"]
        cookies.set_cookie_header(following)

    async def _read(self, response: "httpx.Response") -> CallResult:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > self._limit.max_bytes:
                raise TooLarge(self._limit.too_large_message(_answer_of(self._request), _size(response, len(body))))
        found: dict[str, str] = {}
        for name, value in response.headers.multi_items():
            found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
        return CallResult(status=response.status_code, headers=found, body=Body.of(bytes(body)))


class _Hop:
    """One request of an exchange, and what the transport reports of it."""

    def __init__(self, request: "httpx.Request", before: "_Hop | None") -> None:
        self.request = request
        self.url = printable_url(str(request.url))
        self.description = self.url if before is None else f"{self.url}, to which {before.url} redirects"
        self.is_answered = False
        self.proxy: str | None = None
        self._connects = False
        self._fails_to_connect = False
        self._to_proxy = False
        request.extensions = {**request.extensions, "trace": self._trace}

    async def send(self, clients: HttpClients) -> "httpx.Response":
        """Send it; once more if the server has closed a connection that was kept open, without any answer."""
        import httpx

        try:
            return await clients.pooled.send(self.request, stream=True)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            if self._connects or self.is_answered:
                raise
        return await clients.fresh.send(self.request, stream=True)

    @property
    def by_proxy(self) -> str:
        """The proxy that it went through, as the end of a sentence; empty without one."""
        return "" if self.proxy is None else f" through the proxy {self.proxy}"

    def is_proxy_at_fault(self, error: Exception) -> bool:
        """True if the proxy could not be reached, or refused."""
        import httpx

        return self.proxy is not None and (self._fails_to_connect or isinstance(error, httpx.ProxyError))

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            self._connects = True
            url, peer = self.request.url, (info["host"], info["port"])
            if peer != (url.raw_host.decode().strip("[]"), url.port or _DEFAULT_PORTS[url.scheme]):
                self.proxy = f"{peer[0]}:{peer[1]} (of {proxy_variable(url.scheme)})"
        elif event.endswith("connect_tcp.failed"):
            self._fails_to_connect = True
        elif event.endswith("receive_response_headers.started"):
            self._to_proxy = info["request"].method == b"CONNECT"
        elif event.endswith("receive_response_headers.complete"):
            self.is_answered = not self._to_proxy


def _is_same_site(one: "httpx.URL", other: "httpx.URL") -> bool:
    """True for URLs of one origin, and for the https URL of a host that redirects to it from http."""
    if one.host != other.host:
        return False
    ports = [url.port or _DEFAULT_PORTS[url.scheme] for url in (one, other)]
    return (one.scheme == other.scheme and ports[0] == ports[1]) or (
        (one.scheme, other.scheme) == ("http", "https") and ports == [80, 443]
    )


async def _skip_body(response: "httpx.Response") -> None:
    """Read a short body to its end, after which the connection can be used again."""
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > _MAX_SKIPPED_BYTES:
            return


def _answer_of(request: CallRequest) -> str:
    return f"the answer of call '{request.step}' ({printable_url(request.url)})"


def _size(response: "httpx.Response", read: int) -> str:
    """The size of an answer in bytes, of which `read` have been read."""
    declared = response.headers.get("content-length", "")
    # The header may be wrong, and for a compressed body it is the compressed size.
    whole = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else 0
    return f"{whole:,}" if whole >= read else f"at least {read:,}"


def call_error(error: Exception, request: CallRequest) -> str:
    """The sentence about a call without an answer, without secrets."""
    match error:
        case _CallError():
            return str(error)
        case TimeoutError():
            return f"no answer of {printable_url(request.url)} within {humanize_duration(request.timeout_ms)}"
        case _:
            return f"no answer of {printable_url(request.url)}: {_reason(error, request)}"


def _reason(error: Exception, request: CallRequest) -> str:
    """The name of an error and its reason. Texts of lower layers quote what they were given, and are cleaned."""
    name = type(error).__name__
    # The one that quotes headers; build_call_request has refused what is not valid.
    text = "" if name == "LocalProtocolError" else os_reason(error) or without_secrets(str(error), request)
    return f"{name}: {text}" if text else name


def retry_after_ms(answer: CallResult, now: int) -> int | None:
    """The delay of `Retry-After` in ms; None without a valid one. No delay is longer than 36500 days."""
    delay = retry_after.retry_after_ms(answer.headers.get("retry-after", ""), answer.headers.get("date", ""), now)
    return None if delay is None else int(min(delay, MAX_DURATION_MS))
