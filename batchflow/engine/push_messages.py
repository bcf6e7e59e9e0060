"""The messages of posts beside their deliveries: those that died with their workers, and the fires of schedules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic_core import from_json

from batchflow.core.batch import Failure
from batchflow.core.message import Claim
from batchflow.core.ports import Entropy, FailedAttempt, Handler, LogNames, Runtime
from batchflow.core.posts import (
    LAST_STATES,
    PUSH_DESTINATION,
    PUSH_FAILURE_DESTINATION,
    PUSH_SCHEDULE_DESTINATION,
    LogEntry,
)
from batchflow.core.settlement import LeaveQueue, Log, SendPosts, Settlement, done, failed
from batchflow.core.store import Reads, Store
from batchflow.core.wire_store import Documents, WireStore
from batchflow.engine.push_client import PushClient
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_runs import end_effects
from batchflow.engine.push_schedules import fired_request
from batchflow.engine.pusher import Pusher, detail_of, new_ids
from batchflow.engine.signing_keys import SigningKeys
from batchflow.errors import ConfigurationError, InputError
from batchflow.wire.callbacks import Outcome
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import posts_of
from batchflow.wire.url_groups import endpoints_of_group

PUSH_LOG_NAMES: Mapping[str, LogNames] = MappingProxyType(
    {
        PUSH_DESTINATION: LogNames("batchflow:push", "A post was not delivered"),
        PUSH_FAILURE_DESTINATION: LogNames("batchflow:push", "The end of a post was not recorded"),
        PUSH_SCHEDULE_DESTINATION: LogNames("batchflow:push", "A schedule published nothing"),
    }
)
"""The words of the log lines about posts."""


class PushFailures:
    """Ends the posts that died with their workers, whose end no delivery could settle.

    The store tells it of each dead letter: of those that a delivery has settled, there is nothing to do.
    """

    timeout_ms: int | None = None

    def __init__(self, letters: Reads, store: WireStore) -> None:
        self._letters = letters
        self._store = store

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """See the port."""
        id = str(from_json(claim.body))
        letter = await self._letters.dead_letter(id)
        if letter is None:
            # It was deleted or retried meanwhile: its queue must go on nevertheless.
            return done(claim, "null", (LeaveQueue(id, None),))
        envelope = Envelope.of_text(letter.message.body)
        latest = await self._store.log_entries(envelope.tenant, message=id, limit=1)
        if latest and latest[0].entry.state in LAST_STATES:
            return done(claim, "null")
        now, response = runtime.clock.now(), PushResponse(503, (), letter.response.encode())
        entry = LogEntry(id, envelope.tenant, "FAILED", now, detail_of(response, error=letter.response))
        retried = min(max(0, letter.attempts - 1), envelope.retries)
        outcome = Outcome(status=response.status, body=response.body, retried=retried, dlq_id=id)
        ending = await end_effects(self._store, id, envelope, outcome, now=now, new_id=new_ids(runtime))
        return done(claim, "null", (Log((entry,)), *(ending or ())))


class PushFires:
    """Publishes the posts of the fires of schedules."""

    timeout_ms: int | None = None

    def __init__(self, store: Documents) -> None:
        self._store = store

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """See the port."""
        request = fired_request(claim.body, runtime.clock.now())
        envelope = request.envelope
        try:
            endpoints = (
                await endpoints_of_group(self._store, envelope.tenant, request.destination) if request.is_group else ()
            )
        except InputError as error:
            # No retry helps: the next fire may find the group again.
            if (tell := runtime.observers.attempt_failed) is not None:
                tell(claim, FailedAttempt(error, "function", Failure(type(error).__name__, "", str(error)), 1, 1))
            return failed(claim, str(error), "null")
        return done(claim, "null", (SendPosts(tuple(posts_of(request, new_ids(runtime), endpoints))),))


def push_handlers(client: PushClient, store: Store, entropy: Entropy, now: Callable[[], int]) -> Mapping[str, Handler]:
    """The handlers of posts, by destination.

    Raises:
        ConfigurationError: the store keeps no posts.
    """
    if not isinstance(store, WireStore):
        raise ConfigurationError(f"the store {store.location} keeps no posts; use SQLite or Redis")
    return {
        PUSH_DESTINATION: Pusher(client, store, SigningKeys(store, entropy, now)),
        PUSH_FAILURE_DESTINATION: PushFailures(store, store),
        PUSH_SCHEDULE_DESTINATION: PushFires(store),
    }
