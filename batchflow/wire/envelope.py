"""The envelope of a post: what the engine has to know to push it, as the JSON text of its message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from batchflow.core.call import EMPTY_BODY, Body
from batchflow.core.codec import Codec
from batchflow.core.secrets import marked_text, unmarked_text

HeaderPairs: TypeAlias = tuple[tuple[str, str], ...]
"""Header names and values in their order; a name may be there more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackTarget:
    """The URL to which the outcome of a post is sent, as a post of its own.

    `headers` configure that post: they are those of a publish request, as if it had been sent to `/v2/publish/{url}`,
    in lower case, such as `upstash-retries` and `upstash-forward-x-user`. For `Upstash-Callback-Retries: 5` there is
    `upstash-retries: 5`.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


CallType: TypeAlias = Literal["step", "toCallback", "fromCallback", "failureCall"]
"""The kinds of posts of a run: a delivery of steps, a call, the callback of a call, the failure callback."""

ENDING_CALL_TYPES: frozenset[CallType] = frozenset({"step", "fromCallback"})
"""The kinds of posts of a run with whose failure it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """The workflow run that a post belongs to. It began at `created_at` (ms).

    `features` are those of `Upstash-Feature-Set`. With `first_contact` the endpoint does not know the run yet.
    """

    run: str
    url: str
    created_at: int
    call_type: CallType = "step"
    features: tuple[str, ...] = ()
    first_contact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A request that a post pushes to its URL. Times are in ms; `timeout_ms` limits one attempt.

    `headers` are those that are forwarded to the URL, without the prefix `Upstash-Forward-`; `content_type` is apart.
    `retries` and `retry_delay` (an expression in ms, None: QStash's default) are as they were given; the policy that
    follows from them is that of the message. `flow_key` and its limits are the tenant's own: the message has the key
    of the store. `redact` are the parts that no answer shows: `body`, `header`, `header[Name]`.
    `endpoint` is the name of the URL in the group `topic`. `callback_of` is the id of the post of whose outcome this
    one tells. `queue` is the queue in which it has a place. `run` is the workflow run it belongs to; the body of a post
    that delivers steps is empty here, the run has it.
    """

    url: str
    tenant: str
    created_at: int
    method: str = "POST"
    headers: HeaderPairs = field(default=(), repr=False)
    content_type: str | None = None
    body: Body = field(default=EMPTY_BODY, repr=False)
    not_before: int = 0
    timeout_ms: int | None = None
    retries: int = 3
    retry_delay: str | None = None
    callback: CallbackTarget | None = None
    failure_callback: CallbackTarget | None = None
    flow_key: str | None = None
    parallelism: int | None = None
    rate: int | None = None
    period_s: int = 1
    labels: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    queue: str | None = None
    topic: str | None = None
    endpoint: str | None = None
    schedule_id: str | None = None
    caller_ip: str | None = None
    callback_of: str | None = None
    run: RunPart | None = None

    def to_text(self) -> str:
        """The envelope as JSON text, all of which is a secret value: commands show none of its headers and bodies."""
        return marked_text(envelope_codec().encode(self, sparse=True))

    @classmethod
    def of_text(cls, text: str) -> "Envelope":
        """The envelope of this JSON text."""
        return envelope_codec().decode(unmarked_text(text))


def envelope_codec() -> Codec[Envelope]:
    """The codec of envelopes, built with the first use and not at import."""
    return Codec.of(Envelope)
