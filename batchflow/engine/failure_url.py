"""The calls of failure URLs, made by any worker: the app whose run has failed need not be up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from pydantic import SecretStr
from pydantic_core import from_json, to_json

from batchflow.core.batch import Failure
from batchflow.core.call import CALL_DESTINATION, Body, CallRequest, CallResult, is_credential, printable_url
from batchflow.core.dead_letters import DeadLetter
from batchflow.core.failure_functions import (
    FAILURE_URL_DESTINATION,
    FAILURE_URL_HEADER,
    FailureResponse,
    FailureUrlHeader,
)
from batchflow.core.message import Claim
from batchflow.core.ports import FailedAttempt, Handler, LogNames, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import SCHEDULE_ID_HEADER
from batchflow.core.secrets import MASK, masked_text
from batchflow.core.settlement import Settlement, dead, done, retry
from batchflow.core.store import Reads
from batchflow.engine.caller import HttpCaller, call_error, retry_after_ms
from batchflow.errors import NonRetryable, TooLarge
from batchflow.wire.callbacks import FailureCallback
from batchflow.wire.signature import SIGNATURE, sign

TIMEOUT_MS = 60_000
"""The time in which a failure URL has to answer."""

MAX_KEPT_BODY = 4_096
"""The number of bytes of its answer that are kept with the dead letter."""

_SPARE_MS = 60_000
_STEP = "failure_url"


class CodeFailureUrl(NamedTuple):
    """The failure URL of a function as the code of this process has it, and the URL of a run by its headers."""

    url: str
    run_url: Callable[[Mapping[str, str]], str]


@dataclass(slots=True)
class FailureUrls:
    """The failure URLs of a process's functions, by destination, and the key that signs requests to failure URLs."""

    by_destination: dict[str, CodeFailureUrl] = field(default_factory=dict[str, CodeFailureUrl])
    signing_key: SecretStr | None = None


class FailureUrlCaller:
    """Sends dead letters to their failure URLs, and retries what is not answered with 2xx.

    The URL is that of the code, if this process serves the function, else the one that the run was started with. Secret
    values of the payload and the values of headers that usually have one are masked.
    """

    def __init__(self, store: Reads, caller: HttpCaller, urls: FailureUrls) -> None:
        self._store = store
        self._caller = caller
        self._urls = urls
        self._policy = RetryPolicy()

    @property
    def timeout_ms(self) -> int | None:
        """See the port; the request's own timeout is shorter."""
        return TIMEOUT_MS + _SPARE_MS

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """See the port."""
        letter = await self._store.dead_letter(str(from_json(claim.body)))
        if letter is None:
            # It was resumed or deleted meanwhile: the run has not failed any more.
            return done(claim, "null")
        request = self._request(letter, claim, runtime.clock.now())
        failures = claim.failures + 1
        after: int | None = None
        try:
            answer = await self._caller.call(request, claim.id, follow_redirects=False)
        except (NonRetryable, TooLarge) as error:
            return dead(claim, str(error))
        except Exception as error:
            why = call_error(error, request)
        else:
            if 200 <= answer.status < 300:
                return done(claim, _kept(answer))
            why = f"{printable_url(request.url)} answered {answer.status}"
            after = retry_after_ms(answer, runtime.clock.now())
        if failures >= self._policy.attempts:
            self._report(claim, runtime, why, None)
            return dead(claim, why)
        delay = self._policy.delay_ms(failures, chance=runtime.entropy.chance()) if after is None else after
        self._report(claim, runtime, why, delay)
        return retry(claim, runtime.clock.now() + delay, why)

    def _report(self, claim: Claim, runtime: Runtime, why: str, wait_ms: int | None) -> None:
        if (tell := runtime.observers.attempt_failed) is not None:
            failure = Failure("failure_url", "", why)
            tell(claim, FailedAttempt(None, "function", failure, claim.failures + 1, self._policy.attempts, wait_ms))

    def _request(self, letter: DeadLetter, claim: Claim, now: int) -> CallRequest:
        run = letter.message
        stored = FailureUrlHeader.parse(run.headers[FAILURE_URL_HEADER])
        known = self._urls.by_destination.get(run.destination)
        run_url = run.destination if known is None else known.run_url(run.headers)
        url = stored.url if known is None else known.url
        body = _callback(letter, stored, run_url).to_json()
        headers = {
            "Content-Type": "application/json",
            "Upstash-Message-Id": claim.id,
            "Upstash-Retried": str(claim.failures),
            "Upstash-Workflow-RunId": letter.id,
            "Upstash-Workflow-Is-Failure": "true",
        }
        if (key := self._urls.signing_key) is not None:
            id = f"{claim.id}.{claim.failures}"
            headers[SIGNATURE] = sign(key.get_secret_value(), url, body, now_ms=now, id=id)
        return CallRequest(
            step=_STEP, method="POST", url=url, headers=headers, body=Body.of(body), timeout_ms=TIMEOUT_MS
        )


HTTP_LOG_NAMES: Mapping[str, LogNames] = MappingProxyType(
    {
        CALL_DESTINATION: LogNames("batchflow:call"),
        FAILURE_URL_DESTINATION: LogNames("batchflow:failure", "The failure URL was not reached"),
    }
)
"""The words of the log lines about what is sent over HTTP."""


def http_callers(caller: HttpCaller, store: Reads, urls: FailureUrls) -> Mapping[str, Handler]:
    """The handlers of what any worker sends over HTTP: the calls of runs, and those of failure URLs."""
    return {CALL_DESTINATION: caller, FAILURE_URL_DESTINATION: FailureUrlCaller(store, caller, urls)}


def _callback(letter: DeadLetter, stored: FailureUrlHeader, run_url: str) -> FailureCallback:
    run, response = letter.message, FailureResponse.of(letter)
    # It may have been resumed with other retries.
    retries = stored.max_retries if run.retry is None else run.retry.attempts - 1
    return FailureCallback(
        status=response.status,
        header=response.headers,
        body=response.body,
        # Its steps have attempts of their own, and lost workers count as attempts.
        retried=min(max(0, letter.attempts - 1), retries),
        max_retries=retries,
        source_message_id=letter.id,
        url=run_url,
        method="POST",
        source_header=_printable_headers(run.headers),
        source_body=masked_text(run.body).encode(),
        not_before=stored.not_before or letter.created_at,
        created_at=letter.created_at,
        workflow_run_id=letter.id,
        dlq_id=letter.id,
        schedule_id=run.headers.get(SCHEDULE_ID_HEADER),
    )


def _printable_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of the run's trigger; the values of those that usually have a secret are masked."""
    return {
        name: MASK if is_credential(name) else value
        for name, value in headers.items()
        if not name.startswith("batchflow-")
    }


def _kept(answer: CallResult) -> str:
    """The answer as it is kept with the dead letter."""
    text = answer.body.content[:MAX_KEPT_BODY].decode("utf-8", "replace")
    return to_json({"status": answer.status, "body": text}).decode()
