"""Pushes posts: sends their signed requests, and settles them with their log, their callbacks and their queue."""

import asyncio
from asyncio import Task
from dataclasses import replace
from typing import NamedTuple

from batchflow.core import ids
from batchflow.core.batch import Failure
from batchflow.core.call import printable_url
from batchflow.core.message import Claim
from batchflow.core.ports import FailedAttempt, Runtime
from batchflow.core.posts import LogEntry, LogState
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect, Log, Settlement, cancelled, dead, done, failed, retry
from batchflow.core.wire_store import Posts, WireStore
from batchflow.engine.push_client import PushClient, PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_runs import NewId, delivered_body, end_effects, refusal_of
from batchflow.engine.signing_keys import SigningKeys
from batchflow.errors import StoreError
from batchflow.wire.callbacks import Outcome
from batchflow.wire.delivery import delivery_headers
from batchflow.wire.envelope import Envelope
from batchflow.wire.messages import response_detail
from batchflow.wire.retry_after import asked_wait_ms
from batchflow.wire.signature import SIGNATURE, sign

DEFAULT_TIMEOUT_MS = 15 * 60_000
"""The time that one attempt has without `Upstash-Timeout`."""

MAX_LOGGED_BODY = 16_384
"""The bytes of a response's body that the log and the DLQ keep; callbacks have all that was read."""

SHOWN_AFTER_S = 1.0
"""The time after which the log says that a request is under way; of shorter ones it is written with their outcome."""

_ONE_ATTEMPT = RetryPolicy.none()


class _Attempt(NamedTuple):
    """One attempt of a post, which has begun at `begun` (ms)."""

    claim: Claim
    envelope: Envelope
    begun: int

    def entry(self, state: LogState, at: int, detail: str = "{}") -> LogEntry:
        """An entry of the post's log."""
        return LogEntry(self.claim.id, self.envelope.tenant, state, at, detail)


class Failed(NamedTuple):
    """A failed attempt: its response, or one that stands for it, and a sentence. With `final` there is no other one."""

    response: PushResponse
    kind: str
    error: str
    final: bool


class Pusher:
    """Pushes posts (the handler of `PUSH_DESTINATION`).

    A response with 2xx has delivered a post. After others, and without a response, it is tried again by its policy, or
    when the response asks for it, which counts as an attempt too; at once no more if the response is 489 with
    `Upstash-NonRetryable-Error`, or if its address is refused. A post that has failed is a dead letter.

    A post of a workflow run delivers its entries, and with one that has failed the run fails; after a call that has
    failed it goes on.
    """

    def __init__(self, client: PushClient, store: WireStore, keys: SigningKeys) -> None:
        self._client = client
        self._store = store
        self._keys = keys

    @property
    def timeout_ms(self) -> int | None:
        """See the port; each request has its own, which begins when there is a free connection to its host."""
        return None

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement | None:
        """See the port."""
        attempt = _Attempt(claim, Envelope.of_text(claim.body), runtime.clock.now())
        try:
            key = (await self._keys.of(attempt.envelope.tenant)).current
            body = await delivered_body(self._store, attempt.envelope, claim.id)
            if body is None:
                return cancelled(claim)
            answer, active = await self._send(attempt, _request(attempt, key, body))
            if isinstance(answer, Failed):
                return await self._failed(attempt, answer, active, runtime)
            return await self._delivered(attempt, answer, active, runtime)
        except StoreError:
            return None

    async def _send(
        self, attempt: _Attempt, request: PushRequest
    ) -> tuple[PushResponse | Failed, tuple[LogEntry, ...]]:
        """The response that has delivered the post, or what has failed; and the entries to write with either."""
        active = _ActiveEntry(self._store, attempt.entry("ACTIVE", attempt.begun))
        answer: PushResponse | Failed
        try:
            response = await self._client.send(request)
        except PushError as error:
            response = PushResponse(error.status, (), str(error).encode())
            answer = Failed(response, "no answer", str(error), error.final)
        else:
            answer = _judged(attempt.envelope, response)
        finally:
            active.cancel()
        return answer, await active.end()

    async def _delivered(
        self, attempt: _Attempt, response: PushResponse, active: tuple[LogEntry, ...], runtime: Runtime
    ) -> Settlement:
        ending = await self._end_effects(attempt, _outcome(attempt, response), runtime)
        delivered = attempt.entry("DELIVERED", runtime.clock.now(), detail_of(response))
        return done(attempt.claim, "null", (Log((*active, delivered)), *(ending or ())))

    async def _failed(
        self, attempt: _Attempt, failure: Failed, active: tuple[LogEntry, ...], runtime: Runtime
    ) -> Settlement:
        claim, now = attempt.claim, runtime.clock.now()
        policy, failures = claim.retry or _ONE_ATTEMPT, claim.failures + 1
        is_last = failure.final or failures >= policy.attempts
        wait = None if is_last else _wait_ms(failure.response, policy, failures, now, runtime)
        if (tell := runtime.observers.attempt_failed) is not None:
            about = Failure(failure.kind, "", failure.error)
            tell(claim, FailedAttempt(None, "function", about, failures, policy.attempts, wait))
        if wait is None:
            return await self._end_failed(attempt, failure, active, runtime)
        detail = detail_of(failure.response, error=failure.error, next_delivery=now + wait)
        retries = attempt.entry("RETRY", now, response_detail(next_delivery=now + wait))
        log = Log((*active, attempt.entry("ERROR", now, detail), retries))
        return retry(claim, now + wait, failure.error, effects=(log,))

    async def _end_failed(
        self, attempt: _Attempt, failure: Failed, active: tuple[LogEntry, ...], runtime: Runtime
    ) -> Settlement:
        claim, part, now = attempt.claim, attempt.envelope.run, runtime.clock.now()
        outcome = replace(_outcome(attempt, failure.response), dlq_id=claim.id)
        ending = await self._end_effects(attempt, outcome, runtime)
        if ending is None:
            return cancelled(claim)
        detail = detail_of(failure.response, error=failure.error)
        log = Log((*active, attempt.entry("ERROR", now, detail), attempt.entry("FAILED", now, detail)))
        if part is not None and part.call_type == "toCallback":
            return failed(claim, failure.error, "null", (log, *ending))
        return dead(claim, failure.error, effects=(log, *ending))

    async def _end_effects(self, attempt: _Attempt, outcome: Outcome, runtime: Runtime) -> tuple[Effect, ...] | None:
        claim, envelope = attempt.claim, attempt.envelope
        now, new_id = runtime.clock.now(), new_ids(runtime)
        return await end_effects(self._store, claim.id, envelope, outcome, now=now, new_id=new_id)


class _ActiveEntry:
    """The entry that says that a request is under way: written by itself if that lasts, else with the outcome."""

    def __init__(self, posts: Posts, entry: LogEntry) -> None:
        self._posts = posts
        self._entry = entry
        self._written: Task[bool] | None = None
        self._timer = asyncio.get_running_loop().call_later(SHOWN_AFTER_S, self._begin)

    def cancel(self) -> None:
        """Do not write it any more."""
        self._timer.cancel()

    async def end(self) -> tuple[LogEntry, ...]:
        """The entry that is to be written with the outcome; none if it is written."""
        self._timer.cancel()
        return () if self._written is not None and await self._written else (self._entry,)

    def _begin(self) -> None:
        self._written = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> bool:
        try:
            await self._posts.log([self._entry])
        except StoreError:
            return False
        return True


def detail_of(response: PushResponse, *, error: str | None = None, next_delivery: int | None = None) -> str:
    """The detail of the log entry about a response."""
    body = _cut(response.body)
    return response_detail(response.status, response.headers, body, error=error, next_delivery=next_delivery)


def _cut(body: bytes) -> bytes:
    if len(body) <= MAX_LOGGED_BODY:
        return body
    kept = body[:MAX_LOGGED_BODY]
    try:
        kept.decode()
    except UnicodeDecodeError as error:
        # A text whose last character is cut would be shown as base64.
        return kept[: error.start] if error.start > MAX_LOGGED_BODY - 4 else kept
    return kept


def new_ids(runtime: Runtime) -> NewId:
    """Makes ids of posts."""

    def new_id() -> str:
        return ids.run_id(runtime.clock.now(), runtime.entropy.bytes(ids.RUN_ENTROPY)).replace("run_", "msg_", 1)

    return new_id


def _request(attempt: _Attempt, key: str, body: bytes) -> PushRequest:
    claim, envelope = attempt.claim, attempt.envelope
    signature = sign(key, envelope.url, body, now_ms=attempt.begun, id=f"{claim.id}.{claim.fence}")
    # A claim that has ended otherwise than with a failure may have sent it, as that of a process that has died.
    redelivered = claim.fence > claim.failures + 1
    return PushRequest(
        method=envelope.method,
        url=envelope.url,
        headers=(
            (SIGNATURE, signature),
            *delivery_headers(envelope, claim.id, claim.failures, redelivered=redelivered),
        ),
        body=body,
        timeout_ms=envelope.timeout_ms or DEFAULT_TIMEOUT_MS,
    )


def _judged(envelope: Envelope, response: PushResponse) -> PushResponse | Failed:
    """The response, if it has delivered the post."""
    refusal = None
    if 200 <= response.status < 300:
        refusal = refusal_of(envelope.run, response)
        if refusal is None:
            return response
    kind = f"answered {response.status}"
    error = refusal or f"{printable_url(envelope.url)} {kind}"
    return Failed(response, kind, error, final=refusal is not None or _is_non_retryable(response))


def _outcome(attempt: _Attempt, response: PushResponse) -> Outcome:
    return Outcome(status=response.status, headers=response.headers, body=response.body, retried=attempt.claim.failures)


def _is_non_retryable(response: PushResponse) -> bool:
    return response.status == 489 and any(
        name.lower() == "upstash-nonretryable-error" and value.strip().lower() == "true"
        for name, value in response.headers
    )


def _wait_ms(response: PushResponse, policy: RetryPolicy, failures: int, now: int, runtime: Runtime) -> int:
    """The wait that the response asks for, else that of the policy."""
    asked = asked_wait_ms(response.headers, now)
    return policy.delay_ms(failures, chance=runtime.entropy.chance()) if asked is None else asked
