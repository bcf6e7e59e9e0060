"""The posts of workflow runs: how requests of an SDK become posts, and what the engine publishes for a run itself.

https://upstash.com/docs/workflow has the protocol of the endpoints.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

from pydantic_core import from_json, to_json

from batchflow.core.call import EMPTY_BODY, Body
from batchflow.core.duration import to_ms
from batchflow.core.posts import Post
from batchflow.core.secrets import marked_text, unmarked_text
from batchflow.core.wire_runs import (
    AddEntry,
    AdoptRun,
    AwaitEvent,
    BeginRun,
    JoinRun,
    RunLink,
    WireRun,
    WireRunState,
)
from batchflow.errors import ConfigurationError, InputError
from batchflow.wire.callbacks import Outcome, callback_body, callback_request
from batchflow.wire.envelope import Envelope, RunPart
from batchflow.wire.header_values import LATEST_S, is_number
from batchflow.wire.publish import PublishRequest, parse_publish, post_of
from batchflow.wire.publish_headers import check_name, refusal
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_entries import step_of
from batchflow.wire.run_headers import RUN_ID, RunRequest

MAX_INVOCATIONS = 100
"""The length of a chain of runs, each of which was invoked by the one before, at which no further one begins."""

DEFAULT_WAIT = "7d"
"""The time that a run waits for an event without a timeout."""

_CALLBACK_STEP = "upstash-forward-upstash-workflow-stepid"
_INVOKE_COUNT = "upstash-workflow-invoke-count"
_IS_FAILURE = "Upstash-Workflow-Is-Failure"
_FAILURE_CALLBACK = "Upstash-Workflow-Failure-Callback"


# Requests


def begin_post(request: PublishRequest, new_id: Callable[[], str]) -> Post:
    """The post of a request that begins a run (`Upstash-Workflow-Init: true`), with its invoker if it is an invoke.

    Raises:
        InputError: the body of an invoke is not valid, or the chain of invocations is too long.
    """
    run = _run_of(request)
    if not run.invoke:
        return _first_post(request, run, new_id(), request.envelope.body, None)
    initial, invoker = _read_invoke(request)
    return _first_post(request, run, _invoke_id(request, run.run, invoker, new_id), initial, invoker)


def contact_post(request: PublishRequest, new_id: Callable[[], str], run: str | None) -> Post:
    """The post of `/v2/trigger`: it begins a run and makes first contact with its endpoint, which answers with an init.

    `run` is the id the sender wishes; without one it is new.

    Raises:
        InputError: the id has other characters than names have.
    """
    id = new_id()
    name = run or id.removeprefix("msg_")
    name = check_name(name if name.startswith("wfr_") else f"wfr_{name}", RUN_ID)
    return _first_post(request, RunRequest(run=name, init=True), id, request.envelope.body, None, first_contact=True)


def run_post(request: PublishRequest, run: WireRun, new_id: Callable[[], str]) -> Post:
    """The post of a request about a run that has begun: a step, a call, its callback, the answer to first contact.

    The configuration of the run is applied to steps and to callbacks of calls, not to calls. A request without headers
    of a run, such as a callback that its sender wants beside, becomes a post like all others.
    """
    if request.run is None:
        return post_of(request.envelope, new_id())
    asked, config, envelope = request.run, RunConfig.of_text(run.config), request.envelope
    created_at = asked.created_at
    if asked.answers_contact:
        config = config.adopted(envelope, asked.features)
        link = AdoptRun(run.id, config.to_text(), created_at)
        # An endpoint that answers first contact again changes nothing.
        return _step_post(config.applied(envelope), run, asked.features, _derived_id(run), link)
    if asked.call_type == "step":
        added = AddEntry(run.id, envelope.body, created_at)
        envelope = _not_too_early(envelope, added.body)
        return _step_post(_configured(envelope, config), run, asked.features, _step_id(run, added.body, new_id), added)
    if asked.call_type == "fromCallback":
        envelope = _configured(envelope, config.without_version())
    part = replace(_part_of(run, asked.features), call_type=asked.call_type)
    id = _call_id(run, envelope, new_id) if asked.call_type == "toCallback" else new_id()
    return post_of(replace(envelope, run=part), id, link=JoinRun(run.id, created_at))


def _run_of(request: PublishRequest) -> RunRequest:
    if request.run is None:
        raise refusal(f"'{RUN_ID}' is missing; send the id of the run", RUN_ID)
    return request.run


def _first_post(
    request: PublishRequest,
    run: RunRequest,
    id: str,
    initial: Body,
    invoker: str | None,
    *,
    first_contact: bool = False,
) -> Post:
    envelope = request.envelope
    url = run.url or envelope.url
    config = RunConfig.of(envelope, run.features).to_text()
    link = BeginRun(run.run, url, (initial,), envelope.created_at, config, invoker)
    part = RunPart(
        run=run.run, url=url, created_at=envelope.created_at, features=run.features, first_contact=first_contact
    )
    return post_of(_delivering_steps(envelope, part), id, dedup=request.dedup_key, link=link)


def _step_post(envelope: Envelope, run: WireRun, features: tuple[str, ...], id: str, link: RunLink) -> Post:
    return post_of(_delivering_steps(envelope, _part_of(run, features)), id, link=link)


def _part_of(run: WireRun, features: tuple[str, ...]) -> RunPart:
    return RunPart(run=run.id, url=run.url, created_at=run.created_at, features=features)


def _configured(envelope: Envelope, config: RunConfig) -> Envelope:
    return config.applied(envelope) if config.applies else envelope


def _delivering_steps(envelope: Envelope, part: RunPart) -> Envelope:
    """The envelope of a delivery of steps, whose body is an array that the run has."""
    return replace(envelope, body=EMPTY_BODY, content_type="application/json", run=part)


def _step_id(run: WireRun, entry: Body, new_id: Callable[[], str]) -> str:
    """The id of the post of a step, which an endpoint sends again when it has not learnt that it is recorded.

    The second one changes nothing then: not every SDK passes over the repetition of a step.
    """
    step = step_of(entry)
    return _derived_id(run, step["stepId"], step.get("targetStep")) if "stepId" in step else new_id()


def _call_id(run: WireRun, envelope: Envelope, new_id: Callable[[], str]) -> str:
    """The id of the post of a call, which an endpoint sends again as it does a step: the second one calls nobody."""
    step = None if envelope.callback is None else envelope.callback.headers.get(_CALLBACK_STEP)
    return new_id() if step is None else _derived_id(run, "call", step)


def _derived_id(run: WireRun, *parts: object) -> str:
    return _hashed_id(run.tenant, run.id, run.created_at, *parts)


def _hashed_id(*parts: object) -> str:
    return f"msg_{sha256(to_json(parts)).hexdigest()[:32]}"


def _not_too_early(envelope: Envelope, entry: Body) -> Envelope:
    """The envelope with the exact time of a step that sleeps until then: its header has whole seconds."""
    if "sleepUntil" not in entry.text:
        return envelope
    match step_of(entry).get("sleepUntil"):
        case int() | float() as seconds if 0 < seconds <= LATEST_S:
            return replace(envelope, not_before=max(envelope.not_before, math.ceil(seconds * 1000)))
        case _:
            return envelope


# Invocations


def invoker_of(run: WireRun) -> tuple[str, int | None] | None:
    """The id of the run that waits for this one, and the time at which it began; None if nobody waits."""
    if run.invoker is None:
        return None
    waiting = from_json(unmarked_text(run.invoker))
    return waiting["workflowRunId"], waiting["workflowRunCreatedAt"]


def invoker_post(
    run: WireRun, state: WireRunState, result: str | None, invoker: WireRun, *, now: int, new_id: Callable[[], str]
) -> Post:
    """The post that tells the run which waits for this one of its end, in a step that names this one."""
    waiting = from_json(unmarked_text(run.invoker or "{}"))
    ended: dict[str, Any] = {"isCanceled": state == "RUN_CANCELED", "isFailed": state == "RUN_FAILED"}
    if state == "RUN_SUCCESS" and result:
        ended["body"] = result
    shown = {"invokedWorkflowRunId": run.id, "invokedWorkflowUrl": run.url, "invokedWorkflowCreatedAt": run.created_at}
    step = {**waiting["step"], **shown, "out": to_json(ended).decode()}
    request = _read_invoker(waiting, invoker.tenant, now)
    envelope = _configured(request.envelope, RunConfig.of_text(invoker.config))
    created_at = waiting["workflowRunCreatedAt"] or invoker.created_at
    link = AddEntry(invoker.id, Body(text=to_json(step).decode()), created_at, late=True)
    return _step_post(envelope, invoker, _run_of(request).features, new_id(), link)


def _read_invoke(request: PublishRequest) -> tuple[Body, str]:
    """The initial body of a run that another one invokes, and the text about that one."""
    count = next((value for name, value in request.envelope.headers if name.lower() == _INVOKE_COUNT), "0")
    if not is_number(count, MAX_INVOCATIONS - 1):
        sentence = f"the chain of runs that invoke each other has {MAX_INVOCATIONS} runs; end it earlier"
        raise InputError(sentence, field=_INVOKE_COUNT, status=412)
    fields = _read_object(request.envelope.body.content)
    body = fields.get("body")
    if body is not None and not isinstance(body, str):
        raise _wrong_body("'body' is not a text")
    invoker = {name: fields.get(name) for name in ("workflowRunId", "workflowUrl", "headers", "step")}
    created_at = fields.get("workflowRunCreatedAt")
    is_time = isinstance(created_at, int) and 0 < created_at <= LATEST_S * 1000
    invoker["workflowRunCreatedAt"] = created_at if is_time else None
    _read_invoker(invoker, request.envelope.tenant, request.envelope.created_at)
    return Body(text=body or ""), marked_text(to_json(invoker).decode())


def _invoke_id(request: PublishRequest, run: str, invoker: str, new_id: Callable[[], str]) -> str:
    """The id of the first post of a run that another one invokes, which an endpoint sends again as it does a step.

    The second one changes nothing; from another step it is refused while the run goes on.
    """
    waiting = from_json(unmarked_text(invoker))
    created_at, step = waiting["workflowRunCreatedAt"], waiting["step"]
    if created_at is None:
        return new_id()
    parts = (waiting["workflowRunId"], created_at, "invoke", run, step["stepId"], step.get("targetStep"))
    return _hashed_id(request.envelope.tenant, *parts)


def _read_invoker(invoker: Mapping[str, Any], tenant: str, now: int) -> PublishRequest:
    """The request that delivers the end of a run to the one that has invoked it."""
    match invoker:
        case {"workflowRunId": str(run), "workflowUrl": str(url), "step": {"stepId": _}}:
            return parse_publish(
                url, {**_read_headers(invoker["headers"]), RUN_ID: run}.items(), b"", tenant=tenant, now=now
            )
        case _:
            raise _wrong_body("it has no workflowRunId, workflowUrl and step of the run that invokes this one")


# Events


def waiting_run(body: bytes) -> tuple[str, int | None]:
    """The id of the run that the body of `/v2/wait` is about, and the time at which it began, if that is there.

    Raises:
        InputError: the body is not valid.
    """
    request = _run_of(_read_wait(_read_object(body), "", 0))
    return request.run, request.created_at


def wait_post(event: str, body: bytes, run: WireRun, *, now: int, new_id: Callable[[], str]) -> Post:
    """The post of `/v2/wait/{event}` with this body.

    Its `AwaitEvent.about` is the waiter, as `/v2/waiters` shows it. Its description has the `step` that waits, its
    `waitEventId` and its `waitTimeoutDuration`.

    Raises:
        InputError: the body is not valid.
    """
    fields = _read_object(body)
    request = _read_wait(fields, run.tenant, now)
    step, timeout = fields.get("step"), fields.get("timeout")
    if not isinstance(step, dict) or "stepId" not in step:
        raise _wrong_body("'step' is not the step that waits")
    step = {**cast("dict[str, Any]", step), "waitEventId": event}
    duration = DEFAULT_WAIT if timeout is None else timeout
    try:
        due = now + to_ms(duration, option="timeout")
    except ConfigurationError as error:
        raise _wrong_body("'timeout' is not a time such as 10s, 2h30m or 7d") from error
    headers = {name: list(values) for name, values in fields["timeoutHeaders"].items()}
    url = request.destination
    waiter = {"url": url, "deadline": due // 1000, "headers": headers, "timeoutUrl": url, "timeoutHeaders": headers}
    asked, envelope = _run_of(request), _configured(request.envelope, RunConfig.of_text(run.config))
    # Its end comes with the event: see `run_entries.event_tail`.
    head = to_json(step).decode()[:-1]
    link = AwaitEvent(run.id, event, head, to_json(waiter).decode(), asked.created_at)
    id = _step_id(run, Body(text=f"{head}}}"), new_id)
    post = _step_post(replace(envelope, not_before=due), run, asked.features, id, link)
    described = {**from_json(post.description), "step": step, "waitEventId": event, "waitTimeoutDuration": duration}
    return post._replace(description=to_json(described).decode())


def _read_wait(fields: Mapping[str, Any], tenant: str, now: int) -> PublishRequest:
    """The request that delivers the end of a wait."""
    url = fields.get("timeoutUrl") or fields.get("url")
    if not isinstance(url, str):
        raise _wrong_body("'url' is not the URL of the workflow")
    return parse_publish(url, _read_headers(fields.get("timeoutHeaders")).items(), b"", tenant=tenant, now=now)


# Failures


def failure_post(
    envelope: Envelope, id: str, outcome: Outcome, run: WireRun, initial: Body, *, now: int, attempt: int = 0
) -> Post | None:
    """The failure callback of a run whose post `id` has failed; None if it has none.

    Its id follows from `id` (`failure_id`), so that it can be found.
    """
    config = RunConfig.of_text(run.config)
    target = envelope.failure_callback or config.failure_callback
    if target is None:
        return None
    body = replace(callback_body(envelope, id, outcome), source_body=initial.content)
    request = callback_request(target, envelope, id, body, now)
    pushed = request.envelope
    headers = {name.lower(): (name, value) for name, value in pushed.headers}
    if _IS_FAILURE.lower() not in headers:
        # The run was begun without an SDK, which would have given these headers and those of its sender.
        marks = [(_IS_FAILURE, "true"), (_FAILURE_CALLBACK, "true")]
        own = config.without_version().headers if target.url == run.url else ()
        headers = {name.lower(): (name, value) for name, value in (*own, *pushed.headers, *marks)}
    part = replace(_part_of(run, () if request.run is None else request.run.features), call_type="failureCall")
    pushed = replace(pushed, headers=tuple(headers.values()), run=part)
    return post_of(pushed, failure_id(id, attempt))


def failure_id(id: str, attempt: int = 0) -> str:
    """The id of the failure callback of a run whose post `id` has failed; `attempt` counts its retries from the DLQ."""
    return f"{id}.failure{attempt or ''}"


# Bodies of requests


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _wrong_body(f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _wrong_body("it is not a JSON object")
    return cast("dict[str, Any]", fields)


def _read_headers(headers: object) -> dict[str, str]:
    """The first value of each header of a JSON object of lists, by name in lower case.

    SDKs name the run in two spellings.
    """
    found: dict[str, str] = {}
    for name, values in (cast("dict[str, Any]", headers) if isinstance(headers, dict) else {}).items():
        if not isinstance(values, list) or not values or not isinstance(values[0], str):
            raise _wrong_body(f"the header {name[:60]!r} is not a list of texts")
        found[name.lower()] = values[0]
    return found


def _wrong_body(what: str) -> InputError:
    return InputError(f"the body is not what an SDK of workflows sends: {what}", status=400)
