"""The documents of dead letters, and the body of a command for them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from batchflow.core.dead_letters import (
    DeadLetter,
    DeadLetterGroup,
    FailureCall,
    FailureState,
    LoggedAttempt,
)
from batchflow.core.flow import FlowControl
from batchflow.core.report import headline
from batchflow.core.secrets import MASK, masked_value
from batchflow.http.schemas.base import ApiModel, required_datetime, short_error, stored_traceback, to_datetime
from batchflow.http.schemas.runs import StepInfo
from batchflow.serve.dead_letter_filters import DeadLetterFilter
from batchflow.serve.dead_letters import MAX_PAGE_SIZE, DeadLetterPage, DeadLetterResult


class FailureCallInfo(ApiModel):
    """The latest call of a failure function or URL. `result` is what the function returned."""

    state: FailureState
    at: datetime
    result: Any
    error: str | None

    @classmethod
    def of(cls, call: FailureCall) -> "FailureCallInfo":
        """A call in its present state."""
        return cls(
            state=call.state,
            at=required_datetime(call.at),
            result=masked_value(call.result),
            error=short_error(call.error),
        )


class AttemptInfo(ApiModel):
    """A failed attempt. `tookMs` is null if its worker was lost."""

    at: datetime
    took_ms: float | None
    error: str

    @classmethod
    def of(cls, attempt: LoggedAttempt) -> "AttemptInfo":
        """An attempt as it is kept."""
        return cls(at=required_datetime(attempt.at), took_ms=attempt.took_ms, error=attempt.error)


class DeadLetterInfo(ApiModel):
    """A message whose attempts are used up, without what may be large.

    `workflow` is null for the run of a function. `group` names the dead letters with the same error. `attempts` are its
    failed ones in all. `failureState` is that of its failure function or URL, if it has one.
    """

    dlq_id: str
    route: str
    workflow: str | None
    batch_id: str | None
    item_id: str | None
    label: str | None
    parent: str | None
    attempts: int
    response_status: int
    error: str
    group: str
    failure_state: FailureState | None
    created_at: datetime
    started_at: datetime | None
    died_at: datetime

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterInfo":
        """A dead letter."""
        return cls(**_letter_fields(letter))


class DeadLetterDetail(DeadLetterInfo):
    """A dead letter, whole: its request, its error, its latest attempts, and its steps.

    `responseBody` is the error as the function would answer it. The values of headers are not shown.
    """

    headers: dict[str, str]
    body: Any
    retries: int | None
    flow_key: str | None
    response_body: str
    traceback: str | None
    attempt_log: list[AttemptInfo]
    steps: list[StepInfo]
    failure: FailureCallInfo | None

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterDetail":
        """A dead letter, whole."""
        message = letter.message
        return cls(
            **_letter_fields(letter),
            headers=dict.fromkeys(message.headers, MASK),
            body=masked_value(message.body),
            retries=None if message.retry is None else message.retry.retries,
            flow_key=message.flow.key,
            response_body=headline(letter.error),
            traceback=stored_traceback(letter.error),
            attempt_log=[AttemptInfo.of(attempt) for attempt in letter.attempt_log],
            steps=[StepInfo.of(step) for step in letter.journal],
            failure=None if letter.failure is None else FailureCallInfo.of(letter.failure),
        )


class DeadLetterList(ApiModel):
    """Dead letters, the latest first. `nextCursor` is the `cursor` of the next page; null on the last page."""

    dead_letters: list[DeadLetterInfo]
    next_cursor: str | None

    @classmethod
    def of(cls, page: DeadLetterPage) -> "DeadLetterList":
        """A page."""
        return cls(dead_letters=[DeadLetterInfo.of(letter) for letter in page.letters], next_cursor=page.next_cursor)


class DeadLetterGroupInfo(ApiModel):
    """Dead letters with the same error: its type, and the user's own frames. `example` is the latest of them."""

    group: str
    size: int
    type: str
    where: str
    message: str
    first_at: datetime
    last_at: datetime
    example: str

    @classmethod
    def of(cls, group: DeadLetterGroup) -> "DeadLetterGroupInfo":
        """A group."""
        return cls(
            group=group.fingerprint,
            size=group.size,
            type=group.type,
            where=group.where,
            message=group.message,
            first_at=required_datetime(group.first_at),
            last_at=required_datetime(group.last_at),
            example=group.example,
        )


class DeadLetterGroupList(ApiModel):
    """Groups of dead letters, the largest first."""

    groups: list[DeadLetterGroupInfo]

    @classmethod
    def of(cls, groups: Sequence[DeadLetterGroup]) -> "DeadLetterGroupList":
        """Groups."""
        return cls(groups=[DeadLetterGroupInfo.of(group) for group in groups])


class DeadLetterResponse(ApiModel):
    """The dead letters that a command was carried out for: `count` of them.

    `runIds`, after a resume or a restart, are the ids of what runs now: on QStash runs go on under new ids.
    `refused` are those that it was not: they were not dead letters any more, a retry of their batch has started their
    item, their batch is being cancelled, they have no failure function, or they are messages of `batchflow server`:
    then `advice` says how these are delivered again. With a filter `nextCursor` is the `cursor` of the next page; null
    after the last one.
    `failed` is only of the command line: those of a canary that have failed again.
    """

    success: Literal[True] = True
    count: int
    dlq_ids: list[str]
    run_ids: list[str]
    refused: list[str]
    failed: list[str]
    advice: str | None
    next_cursor: str | None

    @classmethod
    def of(cls, result: DeadLetterResult) -> "DeadLetterResponse":
        """The result of a command."""
        return cls(
            count=result.count,
            dlq_ids=result.ids,
            run_ids=result.run_ids,
            refused=result.refused,
            failed=result.failed,
            advice=result.advice,
            next_cursor=result.next_cursor,
        )


class FlowLimits(ApiModel):
    """Limits of a flow key, which messages with the same key share."""

    model_config = ConfigDict(extra="forbid", validate_by_name=False)

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period: str = "1s"

    def flow_control(self) -> FlowControl:
        """The limits."""
        return FlowControl(key=self.key, parallelism=self.parallelism, rate=self.rate, period=self.period)


class DeadLetterRequest(ApiModel):
    """The dead letters that a command is for: `dlqIds`, or those that match all parts of a filter, or `all`.

    Of a filter one page of `limit` is done; the next one has the answer's `nextCursor` as `cursor`.
    """

    model_config = ConfigDict(extra="forbid", validate_by_name=False)

    dlq_ids: list[str] = Field(default=[], max_length=MAX_PAGE_SIZE)
    all: bool = False
    workflow: str | None = None
    url: str | None = None
    workflow_run_id: str | None = None
    batch_id: str | None = None
    item_id: str | None = None
    label: str | None = None
    response_status: int | None = None
    group: str | None = None
    from_date: AwareDatetime | None = None
    to_date: AwareDatetime | None = None
    cursor: str | None = None
    limit: int = Field(default=MAX_PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE)

    @property
    def filter(self) -> DeadLetterFilter:
        """The filter of it."""
        return {
            "workflow": self.workflow,
            "url": self.url,
            "run_id": self.workflow_run_id,
            "batch_id": self.batch_id,
            "item": self.item_id,
            "label": self.label,
            "status": self.response_status,
            "group": self.group,
            "since": self.from_date,
            "until": self.to_date,
        }


class RedriveRequest(DeadLetterRequest):
    """The dead letters to resume or restart, and what they get instead of their own retries and limits."""

    retries: int | None = None
    flow_control: FlowLimits | None = None


def _letter_fields(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    return {
        "dlq_id": letter.id,
        "route": message.destination,
        "workflow": letter.workflow,
        "batch_id": message.batch,
        "item_id": letter.item,
        "label": letter.label,
        "parent": None if message.parent is None else message.parent[0],
        "attempts": letter.attempts,
        "response_status": letter.status,
        "error": short_error(letter.error),
        "group": letter.fingerprint,
        "failure_state": None if letter.failure is None else letter.failure.state,
        "created_at": required_datetime(letter.created_at),
        "started_at": to_datetime(letter.started_at),
        "died_at": required_datetime(letter.died_at),
    }
