"""Posts of workflow runs: the bodies they deliver, the responses they need, and the effects of their ends."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from batchflow.core.posts import Post
from batchflow.core.settlement import Effect, EndRun, LeaveQueue, SendPosts
from batchflow.core.wire_runs import WireRun, WireRunState
from batchflow.core.wire_store import WireRuns
from batchflow.engine.push_response import PushResponse
from batchflow.wire.callbacks import Outcome, callback_posts, callback_requests
from batchflow.wire.envelope import CallType, Envelope, RunPart
from batchflow.wire.run_entries import steps_array
from batchflow.wire.run_posts import failure_post, invoker_of, invoker_post, run_post

NewId: TypeAlias = Callable[[], str]

_OF_ENDPOINT: frozenset[CallType] = frozenset({"step", "fromCallback"})
"""The posts to the endpoint of a run, with each of which the run fails."""

_OTHER_DESTINATION = (
    "detected a non-workflow destination for trigger/invoke. "
    "make sure you are sending the request to the correct endpoint"
)
_OLD_SDK = "trigger rest api is only usable with sdk versions after v1.0.0 major version"
# The SDKs look for these words.


async def delivered_body(runs: WireRuns, envelope: Envelope, id: str) -> bytes | None:
    """The body of a delivery of the post `id`; None if the run whose steps it delivers has ended."""
    part = envelope.run
    if part is None or part.call_type != "step":
        return envelope.body.content
    entries = await runs.claim_entry(envelope.tenant, part.run, id)
    return None if entries is None else steps_array(entries)


def refusal_of(part: RunPart | None, response: PushResponse) -> str | None:
    """The reason why a response with 2xx does not count as a delivery: no workflow endpoint has sent it."""
    if part is None or part.call_type not in _OF_ENDPOINT:
        return None
    names = {name.lower() for name, _ in response.headers}
    if part.first_contact and "upstash-workflow-sdk" not in names:
        return _OLD_SDK
    if "WF_DetectTrigger" in part.features and "upstash-workflow-sdk-version" not in names:
        return _OTHER_DESTINATION
    return None


async def end_effects(
    runs: WireRuns, id: str, envelope: Envelope, outcome: Outcome, *, now: int, new_id: NewId
) -> tuple[Effect, ...] | None:
    """The effects of the end of a post beside its log: its callbacks, and its place in a queue, which one of them gets.

    A queue goes on once the last of a chain of callbacks has ended. With a post to its endpoint that has failed a
    workflow run ends; None if it has ended already.
    """
    effects: list[Effect] = []
    part = envelope.run
    if part is None:
        posts = callback_posts(envelope, id, outcome, now=now, new_id=new_id)
    else:
        posts = await _run_callbacks(runs, id, envelope, part, outcome, now, new_id)
        if outcome.dlq_id is not None and part.call_type in _OF_ENDPOINT:
            end = await _end_of_run(runs, id, envelope, part, outcome, now, new_id)
            if end is None:
                return None
            effects.append(end)
    if posts:
        effects.append(SendPosts(tuple(posts)))
    if envelope.queue is not None or envelope.callback_of is not None:
        effects.append(LeaveQueue(id, posts[0].message.id if posts else None))
    return tuple(effects)


async def invoker_posts(
    runs: WireRuns, run: WireRun, state: WireRunState, result: str | None, *, now: int, new_id: NewId
) -> tuple[Post, ...]:
    """The post that tells the run which waits for this one of its end; none if nobody waits."""
    named = invoker_of(run)
    invoker = None if named is None else await runs.wire_run(run.tenant, named[0])
    return () if invoker is None else (invoker_post(run, state, result, invoker, now=now, new_id=new_id),)


async def _run_callbacks(
    runs: WireRuns, id: str, envelope: Envelope, part: RunPart, outcome: Outcome, now: int, new_id: NewId
) -> list[Post]:
    # Failures are told by the end of the run; after a call the run goes on.
    requests = callback_requests(envelope, id, replace(outcome, dlq_id=None), now=now)
    run = await _run_of(runs, envelope, part) if requests else None
    return [] if run is None else [run_post(request, run, new_id) for request in requests]


async def _end_of_run(
    runs: WireRuns, id: str, envelope: Envelope, part: RunPart, outcome: Outcome, now: int, new_id: NewId
) -> EndRun | None:
    run = await _run_of(runs, envelope, part)
    if run is None or run.state != "RUN_STARTED":
        return None
    initial = (await runs.run_entries(run.tenant, run.id))[0].body
    failure = failure_post(envelope, id, outcome, run, initial, now=now)
    waiting = await invoker_posts(runs, run, "RUN_FAILED", None, now=now, new_id=new_id)
    posts = waiting if failure is None else (failure, *waiting)
    return EndRun(run.tenant, run.id, "RUN_FAILED", posts=posts, created_at=run.created_at)


async def _run_of(runs: WireRuns, envelope: Envelope, part: RunPart) -> WireRun | None:
    """The run of a post; None if another one with its id has begun since."""
    run = await runs.wire_run(envelope.tenant, part.run)
    return run if run is not None and run.created_at == part.created_at else None
