"""Runs, waiters and dead letters as QStash shows them, read as batchflow's own."""

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from pydantic_core import from_json, to_json

from batchflow.core.dead_letters import DeadLetter, FailureCall, FailureState, fingerprint_of, status_of
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.run import Run, RunState, Step, StepState, Waiter
from batchflow.qstash.shown import Shown
from batchflow.serve.endpoint import Endpoint
from batchflow.wire.steps import as_json, kind_of, shown_outcome
from batchflow.wire.submissions import own_id

RouteOf: TypeAlias = Callable[[str], str]
"""The route of an endpoint of the app, by its URL."""

_STATES: Mapping[str, RunState] = MappingProxyType(
    {"RUN_STARTED": "waiting", "RUN_SUCCESS": "completed", "RUN_FAILED": "failed", "RUN_CANCELED": "cancelled"}
)
_STEP_STATES: Mapping[str, StepState] = MappingProxyType(
    {"STEP_SUCCESS": "done", "STEP_FAILED": "failed", "STEP_CANCELED": "cancelled"}
)


def wire_state(state: RunState) -> str:
    """The state of a run as QStash has it."""
    return next((wire for wire, own in _STATES.items() if own == state), "RUN_STARTED")


_CALL_STATES: Mapping[str, FailureState] = MappingProxyType(
    {"CALLBACK_INPROGRESS": "in_progress", "CALLBACK_SUCCESS": "succeeded", "CALLBACK_FAIL": "failed"}
)


class ShownError(Shown):
    """A failed delivery."""

    error: str = ""
    body: str = ""


class ShownStep(Shown):
    """A step of the log of a run; one that has not been delivered has no name."""

    step_id: int = 0
    step_name: str = ""
    step_type: str = ""
    target_step: int = 0
    out: Any = None
    state: str = ""
    created_at: int = 0
    wait_timeout: bool = False
    errors: tuple[ShownError, ...] = ()


class ShownGroup(Shown):
    """The steps that were started together; `next` has the delivery that is under way."""

    type: str
    steps: tuple[ShownStep, ...] = ()


class ShownFailure(Shown):
    """The failure of a run, as its failure function gets it."""

    fail_response: str = ""


class ShownInvoker(Shown):
    """The run that waits for this one."""

    workflow_run_id: str


class ShownRun(Shown):
    """A run of the log."""

    workflow_run_id: str
    workflow_url: str
    workflow_state: str
    workflow_run_created_at: int
    workflow_run_completed_at: int | None = None
    workflow_run_response: str | None = None
    label: str | None = None
    flow_control_key: str | None = None
    invoker: ShownInvoker | None = None
    failure_function: ShownFailure | None = None
    steps: tuple[ShownGroup, ...] = ()

    def to_run(self, route_of: RouteOf) -> Run:
        """The run as batchflow has it."""
        errors = [error for group in self.steps for step in group.steps for error in step.errors]
        return Run(
            id=own_id(self.workflow_run_id),
            destination=route_of(self.workflow_url),
            state=_STATES[self.workflow_state],
            created_at=self.workflow_run_created_at,
            started_at=self.workflow_run_created_at,
            ended_at=self.workflow_run_completed_at,
            payload=_json(next((_text(it.out) for it in self._steps() if it.step_type == "Initial"), None) or ""),
            result=None if (result := self.workflow_run_response) is None else _json(result),
            error=_error(errors[-1].body) or errors[-1].error if errors else None,
            failures=len(errors),
            label=self.label,
            parent=None if self.invoker is None else own_id(self.invoker.workflow_run_id),
            flow_key=self.flow_control_key,
            journal=tuple(self._journal()),
        )

    def _steps(self) -> Iterator[ShownStep]:
        for group in self.steps:
            yield from group.steps if group.type != "next" else ()

    def _journal(self) -> Iterator[Step]:
        position = 0
        for shown in self._steps():
            if shown.step_type == "Initial":
                continue
            state = _STEP_STATES.get(shown.state, "pending")
            position += state != "pending"
            step = Step(
                number=shown.step_id or shown.target_step,
                name=shown.step_name,
                kind=kind_of(shown.step_type),
                state=state,
                position=position if state != "pending" else 0,
                at=shown.created_at,
            )
            if state == "done":
                step = shown_outcome(step, shown.step_type, shown.out, timed_out=shown.wait_timeout)
            yield step


class RunsPage(Shown):
    """A page of runs, the latest first."""

    runs: tuple[ShownRun, ...] = ()
    cursor: str | None = None


class ShownWaiter(Shown):
    """A waiter of an event; `deadline` is in unix seconds."""

    deadline: int | None = None
    headers: Mapping[str, Sequence[str]] = {}

    def to_waiter(self) -> Waiter:
        """The waiter as batchflow has it; QStash shows neither its step nor since when it waits."""
        runs = [values for name, values in self.headers.items() if name.lower() == "upstash-workflow-runid"]
        until = None if self.deadline is None else self.deadline * 1000
        return Waiter(own_id(runs[0][0]) if runs else "", "", None, until)


class ShownFailureCall(Shown):
    """The call of the failure function of an entry of the DLQ."""

    state: str = ""
    response_body: str = ""

    def to_call(self, at: int) -> FailureCall | None:
        """The call as batchflow has it; None for one that was cancelled."""
        state = _CALL_STATES.get(self.state)
        if state is None:
            return None
        result = _result(self.response_body) if state == "succeeded" else None
        return FailureCall(state, at, result, _error(self.response_body) if state == "failed" else None)


class ShownLetter(Shown):
    """An entry of the workflow DLQ."""

    dlq_id: str
    url: str = ""
    workflow_run_id: str | None = None
    workflow_url: str | None = None
    workflow_created_at: int = 0
    header: Mapping[str, Sequence[str]] = {}
    label: str | None = None
    flow_control_key: str | None = None
    max_retries: int = 0
    created_at: int = 0
    response_status: int = 0
    response_body: str = ""
    failure_callback_info: ShownFailureCall | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, with names in lower case."""
        return {name.lower(): values[0] for name, values in self.header.items() if values}

    @property
    def died_at(self) -> int:
        """The time in ms of its failure, with which ids of hosted QStash begin; else that of its last message."""
        time, _, rest = self.dlq_id.partition("-")
        return int(time) if rest and time.isascii() and time.isdigit() else self.created_at

    def to_letter(self, route_of: RouteOf) -> DeadLetter:
        """The dead letter as batchflow has it; QStash shows neither steps nor the number of attempts."""
        error = _error(self.response_body)
        attempts = 1 if self.response_status == 489 else self.max_retries + 1
        message = Message(
            id=own_id(self.workflow_run_id or self.dlq_id),
            destination=route_of(self.workflow_url or self.url),
            flow=FlowControl(key=self.flow_control_key or "qstash"),
            label=self.label,
        )
        return DeadLetter(
            message=message,
            error=error,
            failures=attempts,
            losses=0,
            created_at=self.workflow_created_at or self.created_at,
            started_at=self.workflow_created_at or None,
            died_at=self.died_at,
            attempts=attempts,
            status=status_of(error),
            fingerprint=fingerprint_of(error),
            label=self.label,
            failure=None if (call := self.failure_callback_info) is None else call.to_call(self.died_at),
        )


class LettersPage(Shown):
    """A page of entries of the workflow DLQ, the latest first."""

    messages: tuple[ShownLetter, ...] = ()
    cursor: str | None = None


class ShownFailureCallback(Shown):
    """The body of a failure callback: the answer of the endpoint, and the initial body of the run, both in base64."""

    body: str = ""
    status: int = 500
    source_body: str = ""
    retried: int = 0
    workflow_created_at: int = 0

    def to_letter(self, run: str, endpoint: Endpoint, headers: Mapping[str, str], now: int) -> DeadLetter:
        """The dead letter that it tells of."""
        error = _error(_decoded(self.body)) or f"the endpoint answered {self.status}"
        payload = _decoded(self.source_body) or "null"
        message = Message(id=run, destination=endpoint.route, flow=endpoint.flow, body=payload, headers=headers)
        return DeadLetter(
            message=message,
            error=error,
            failures=self.retried + 1,
            losses=0,
            created_at=self.workflow_created_at,
            started_at=self.workflow_created_at or None,
            died_at=now,
            attempts=self.retried + 1,
            status=status_of(error),
            fingerprint=fingerprint_of(error),
        )


def _decoded(content: str) -> str:
    return b64decode(content).decode(errors="replace")


def _json(text: str) -> str:
    return as_json(text.encode())


def _text(out: Any) -> str | None:
    return out if out is None or isinstance(out, str) else to_json(out).decode()


def _error(body: str) -> str:
    """The error that an endpoint has answered: its type and message, with the traceback."""
    try:
        answer: Any = from_json(body)
    except ValueError:
        return body
    match answer:
        case {"error": str(kind), "message": str(message)}:
            line = f"{kind}: {message}" if message else kind
            stack = answer.get("stack")
            return f"{line}\n{stack}" if stack else line
        case _:
            return body


def _result(body: str) -> str | None:
    """The value that a failure function has returned, as JSON text; None if the body is not the answer of one."""
    try:
        answer: Any = from_json(body)
    except ValueError:
        return None
    return to_json(answer["result"]).decode() if isinstance(answer, dict) and "result" in answer else None
