"""The posts of workflow runs: how requests of an SDK become posts, and what the engine publishes for a run itself.

https://upstash.com/docs/workflow has the protocol of the endpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchflow.core.call import Body
from batchflow.core.posts import Post
from batchflow.core.wire_runs import RunEntry, WireRun, WireRunState
from batchflow.wire.callbacks import Outcome
from batchflow.wire.envelope import CallbackTarget, Envelope, HeaderPairs
from batchflow.wire.publish import PublishRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The settings that the posts of a run share, as its first request gives them; they are kept with the run.

    With `applies` (`WF_TriggerOnConfig`) the engine gives them to each step and to the callback of a call; without it
    each request has its own, and these are for listings and for the failure callback of the first one.
    """

    applies: bool = False
    features: tuple[str, ...] = ()
    headers: HeaderPairs = field(default=(), repr=False)
    content_type: str | None = None
    retries: int = 3
    retry_delay: str | None = None
    timeout_ms: int | None = None
    failure_callback: CallbackTarget | None = None
    flow_key: str | None = None
    parallelism: int | None = None
    rate: int | None = None
    period_s: int = 1
    labels: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    caller_ip: str | None = None
    resumed: str | None = None

    @classmethod
    def of(cls, envelope: Envelope, features: Sequence[str]) -> "RunConfig":
        """The configuration that the envelope of a first request gives to its run."""
        raise NotImplementedError

    def to_text(self) -> str:
        """As JSON text, all of which is a secret value."""
        raise NotImplementedError

    @classmethod
    def of_text(cls, text: str) -> "RunConfig":
        """The configuration of this text."""
        raise NotImplementedError


def begin_post(request: PublishRequest, new_id: Callable[[], str]) -> Post:
    """The post of a request that begins a run (`Upstash-Workflow-Init: true`), with its invoker if it is an invoke."""
    raise NotImplementedError


def contact_post(request: PublishRequest, new_id: Callable[[], str], run: str | None) -> Post:
    """The post of `/v2/trigger`: it begins a run and makes first contact with its endpoint, which answers with an init.

    `run` is the id the sender wishes; without one it is new.
    """
    raise NotImplementedError


def run_post(request: PublishRequest, run: WireRun, new_id: Callable[[], str]) -> Post:
    """The post of a request about a run that has begun: a step, a call, the answer to first contact.

    The configuration of the run is applied to steps and to callbacks of calls, not to calls.
    """
    raise NotImplementedError


def wait_post(event: str, body: bytes, run: WireRun, *, now: int, new_id: Callable[[], str]) -> Post:
    """The post of `/v2/wait/{event}` with this body.

    Raises:
        InputError: the body is not valid.
    """
    raise NotImplementedError


def waiting_run(body: bytes) -> tuple[str, int | None]:
    """The id of the run that the body of `/v2/wait` is about, and the time at which it began, if that is there.

    Raises:
        InputError: the body is not valid.
    """
    raise NotImplementedError


def event_tail(data: bytes) -> str:
    """The end of the entry of a wait that gets this data; see `AwaitEvent`."""
    raise NotImplementedError


def webhook_data(method: str, headers: Sequence[tuple[str, str]], body: bytes, url: str) -> bytes:
    """The data of the event of a webhook request, whose whole URL is `url`."""
    raise NotImplementedError


def invoker_of(run: WireRun) -> tuple[str, int | None] | None:
    """The id of the run that waits for this one, and the time at which it began; None if nobody waits."""
    raise NotImplementedError


def invoker_post(
    run: WireRun, state: WireRunState, result: str | None, invoker: WireRun, *, now: int, new_id: Callable[[], str]
) -> Post:
    """The post that tells the run which waits for this one of its end."""
    raise NotImplementedError


def failure_post(
    envelope: Envelope, id: str, outcome: Outcome, run: WireRun, initial: Body, *, now: int
) -> Post | None:
    """The failure callback of a run whose post `id` has failed; None if it has none.

    Its id follows from `id` (`failure_id`), so that it can be found.
    """
    raise NotImplementedError


def failure_id(id: str, attempt: int = 0) -> str:
    """The id of the failure callback of a run whose post `id` has failed; `attempt` counts its retries from the DLQ."""
    raise NotImplementedError


def steps_array(entries: Sequence[RunEntry]) -> bytes:
    """The body of a delivery: these entries as a JSON array, byte for byte as `JSON.stringify` writes it."""
    raise NotImplementedError


def step_of(entry: Body) -> dict[str, Any]:
    """The step that an entry records, as far as it can be read; empty for what is not a step."""
    raise NotImplementedError
