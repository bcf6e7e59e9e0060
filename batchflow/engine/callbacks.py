"""Callbacks: POSTs that any worker sends, repeated until they are answered with 2xx, and signed where a key is set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pydantic import SecretStr
from pydantic_core import to_json

from batchflow.core.batch import Batch, Failure
from batchflow.core.call import Body, CallRequest, CallResult, printable_url
from batchflow.core.message import Claim
from batchflow.core.ports import FailedAttempt, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement, dead, done, retry
from batchflow.engine.caller import HttpCaller, call_error, retry_after_ms
from batchflow.errors import NonRetryable, TooLarge
from batchflow.wire.signature import SIGNATURE, sign

TIMEOUT_MS = 60_000
"""The time in which a URL has to answer."""

MAX_KEPT_BODY = 4_096
"""The number of bytes of its answer that are kept."""

_SPARE_MS = 60_000


class CodeFailureUrl(NamedTuple):
    """The failure URL of a function as the code of this process has it, and the URL of a run by its headers."""

    url: str
    run_url: Callable[[Mapping[str, str]], str]


@dataclass(slots=True)
class CallbackSettings:
    """The body of a notification of a batch's end, the key that signs all callbacks of a process, and the failure URLs
    of its functions, by destination.
    """

    notification_body: Callable[[Batch], bytes] | None = None
    signing_key: SecretStr | None = None
    failure_urls: dict[str, CodeFailureUrl] = field(default_factory=dict[str, CodeFailureUrl])


class Callback(NamedTuple):
    """One POST of JSON, with further headers."""

    url: str
    body: bytes
    headers: Mapping[str, str] = {}


class CallbackSource(Protocol):
    """Makes the callbacks of one destination; `name` is that of the option with their URL."""

    name: str

    async def callback(self, claim: Claim) -> Callback | None:
        """The callback of a message; None if it has become pointless."""
        ...


class CallbackCaller:
    """Sends the callbacks of one destination, and repeats those that are not answered with 2xx."""

    def __init__(self, source: CallbackSource, caller: HttpCaller, settings: CallbackSettings) -> None:
        self._source = source
        self._caller = caller
        self._settings = settings
        self._policy = RetryPolicy()

    @property
    def timeout_ms(self) -> int | None:
        """See the port; the request's own timeout is shorter."""
        return TIMEOUT_MS + _SPARE_MS

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """See the port."""
        callback = await self._source.callback(claim)
        if callback is None:
            return done(claim, "null")
        request = self._request(callback, claim, runtime.clock.now())
        failures = claim.failures + 1
        after: int | None = None
        try:
            answer = await self._caller.call(request, claim.id, follow_redirects=False)
        except (NonRetryable, TooLarge) as error:
            return dead(claim, str(error))
        except Exception as error:
            kind, why = type(error).__name__.lstrip("_"), call_error(error, request)
        else:
            if 200 <= answer.status < 300:
                return done(claim, _kept(answer))
            kind = f"answered {answer.status}"
            why = f"{printable_url(request.url)} {kind}"
            after = retry_after_ms(answer, runtime.clock.now())
        if failures >= self._policy.attempts:
            self._report(claim, runtime, Failure(kind, "", why), None)
            return dead(claim, why)
        delay = self._policy.delay_ms(failures, chance=runtime.entropy.chance()) if after is None else after
        self._report(claim, runtime, Failure(kind, "", why), delay)
        return retry(claim, runtime.clock.now() + delay, why)

    def _report(self, claim: Claim, runtime: Runtime, failure: Failure, wait_ms: int | None) -> None:
        if (tell := runtime.observers.attempt_failed) is not None:
            tell(claim, FailedAttempt(None, "function", failure, claim.failures + 1, self._policy.attempts, wait_ms))

    def _request(self, callback: Callback, claim: Claim, now: int) -> CallRequest:
        headers = {
            "Content-Type": "application/json",
            "Upstash-Message-Id": claim.id,
            "Upstash-Retried": str(claim.failures),
            **callback.headers,
        }
        if (key := self._settings.signing_key) is not None:
            id = f"{claim.id}.{claim.failures}"
            headers[SIGNATURE] = sign(key.get_secret_value(), callback.url, callback.body, now_ms=now, id=id)
        return CallRequest(
            step=self._source.name,
            method="POST",
            url=callback.url,
            headers=headers,
            body=Body.of(callback.body),
            timeout_ms=TIMEOUT_MS,
        )


def _kept(answer: CallResult) -> str:
    """The answer as it is kept, with a dead letter."""
    text = answer.body.content[:MAX_KEPT_BODY].decode("utf-8", "replace")
    return to_json({"status": answer.status, "body": text}).decode()
