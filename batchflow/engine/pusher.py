"""Pushes posts: sends their signed requests, and settles them with their log, their callbacks and their queue."""

import asyncio
from asyncio import Task
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from batchflow.core import ids
from batchflow.core.batch import Failure
from batchflow.core.call import printable_url
from batchflow.core.message import Claim
from batchflow.core.ports import FailedAttempt, Runtime
from batchflow.core.posts import LogEntry, LogState
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect, LeaveQueue, Log, SendPosts, Settlement, dead, done, retry
from batchflow.core.wire_store import Posts
from batchflow.engine.push_client import PushClient, PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.engine.signing_keys import SigningKeys
from batchflow.errors import StoreError
from batchflow.wire.callbacks import Outcome, callback_posts
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

NewId: TypeAlias = Callable[[], str]


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
    """

    def __init__(self, client: PushClient, posts: Posts, keys: SigningKeys) -> None:
        self._client = client
        self._posts = posts
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
        except StoreError:
            return None
        active = _ActiveEntry(self._posts, attempt.entry("ACTIVE", attempt.begun))
        try:
            response = await self._client.send(_request(attempt, key))
        except PushError as error:
            response = PushResponse(error.status, (), str(error).encode())
            failed = Failed(response, "no answer", str(error), error.final)
        else:
            if 200 <= response.status < 300:
                return self._delivered(attempt, response, await active.end(), runtime)
            kind = f"answered {response.status}"
            error = f"{printable_url(attempt.envelope.url)} {kind}"
            failed = Failed(response, kind, error, _is_non_retryable(response))
        finally:
            active.cancel()
        return self._failed(attempt, failed, await active.end(), runtime)

    def _delivered(
        self, attempt: _Attempt, response: PushResponse, active: tuple[LogEntry, ...], runtime: Runtime
    ) -> Settlement:
        now = runtime.clock.now()
        delivered = attempt.entry("DELIVERED", now, detail_of(response))
        ending = end_effects(attempt.claim.id, attempt.envelope, _outcome(attempt, response), now, new_ids(runtime))
        return done(attempt.claim, "null", (Log((*active, delivered)), *ending))

    def _failed(self, attempt: _Attempt, failed: Failed, active: tuple[LogEntry, ...], runtime: Runtime) -> Settlement:
        claim, now = attempt.claim, runtime.clock.now()
        policy, failures = claim.retry or _ONE_ATTEMPT, claim.failures + 1
        is_last = failed.final or failures >= policy.attempts
        wait = None if is_last else _wait_ms(failed.response, policy, failures, now, runtime)
        if (tell := runtime.observers.attempt_failed) is not None:
            failure = Failure(failed.kind, "", failed.error)
            tell(claim, FailedAttempt(None, "function", failure, failures, policy.attempts, wait))
        if wait is None:
            detail = detail_of(failed.response, error=failed.error)
            entries = (*active, attempt.entry("ERROR", now, detail), attempt.entry("FAILED", now, detail))
            outcome = replace(_outcome(attempt, failed.response), dlq_id=claim.id)
            ending = end_effects(claim.id, attempt.envelope, outcome, now, new_ids(runtime))
            return dead(claim, failed.error, effects=(Log(entries), *ending))
        detail = detail_of(failed.response, error=failed.error, next_delivery=now + wait)
        retries = attempt.entry("RETRY", now, response_detail(next_delivery=now + wait))
        log = Log((*active, attempt.entry("ERROR", now, detail), retries))
        return retry(claim, now + wait, failed.error, effects=(log,))


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


def end_effects(id: str, envelope: Envelope, outcome: Outcome, now: int, new_id: NewId) -> tuple[Effect, ...]:
    """The effects of the end of a post beside its log: its callbacks, and its place in a queue, which one of them gets.

    A queue goes on once the last of a chain of callbacks has ended.
    """
    posts = callback_posts(envelope, id, outcome, now=now, new_id=new_id)
    effects: list[Effect] = [SendPosts(tuple(posts))] if posts else []
    if envelope.queue is not None or envelope.callback_of is not None:
        effects.append(LeaveQueue(id, posts[0].message.id if posts else None))
    return tuple(effects)


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


def _request(attempt: _Attempt, key: str) -> PushRequest:
    claim, envelope = attempt.claim, attempt.envelope
    body = envelope.body.content
    signature = sign(key, envelope.url, body, now_ms=attempt.begun, id=f"{claim.id}.{claim.fence}")
    return PushRequest(
        method=envelope.method,
        url=envelope.url,
        headers=((SIGNATURE, signature), *delivery_headers(envelope, claim.id, claim.failures)),
        body=body,
        timeout_ms=envelope.timeout_ms or DEFAULT_TIMEOUT_MS,
    )


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
