"""The body of a failure callback, as QStash sends it."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCallback:
    """A failed request and its response, for a failure URL. Times are in ms; a field of None is left out."""

    status: int
    header: Mapping[str, str]
    body: bytes
    retried: int
    max_retries: int
    source_message_id: str
    url: str
    method: str
    source_header: Mapping[str, str]
    source_body: bytes
    not_before: int
    created_at: int
    workflow_run_id: str
    dlq_id: str
    topic_name: str | None = None
    endpoint_name: str | None = None
    schedule_id: str | None = None
    caller_ip: str | None = None

    def to_json(self) -> bytes:
        """The body as JSON."""
        fields = {
            "status": self.status,
            "header": _lists(self.header),
            "body": _base64(self.body),
            "retried": self.retried,
            "maxRetries": self.max_retries,
            "sourceMessageId": self.source_message_id,
            "topicName": self.topic_name,
            "endpointName": self.endpoint_name,
            "url": self.url,
            "method": self.method,
            "sourceHeader": _lists(self.source_header),
            "sourceBody": _base64(self.source_body),
            "notBefore": self.not_before,
            "createdAt": self.created_at,
            "scheduleId": self.schedule_id,
            "callerIP": self.caller_ip,
            "workflowRunId": self.workflow_run_id,
            "dlqId": self.dlq_id,
        }
        return to_json({name: value for name, value in fields.items() if value is not None})


def _lists(headers: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: [value] for name, value in headers.items()}


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
