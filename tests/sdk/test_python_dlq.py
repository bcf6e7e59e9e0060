"""Dead letters by the official Python SDK."""

import pytest
from qstash.dlq import DlqMessage
from qstash.errors import QStashError

from tests.sdk.receiver import Answer, Endpoint
from tests.sdk.stage import Stage, message_id


def bury(stage: Stage, endpoint: Endpoint, label: str | None = None) -> DlqMessage:
    """Publish a message that becomes a dead letter."""
    id = message_id(
        stage.client.message.publish(
            url=endpoint.url, body="body", headers={"X-Test": "one"}, content_type="text/plain", retries=0, label=label
        )
    )
    stage.wait_for_state(id, "FAILED")
    (letter,) = stage.client.dlq.list(filter={"message_id": id}).messages
    return letter


def test_a_dead_letter_has_its_message_and_the_last_response(stage: Stage) -> None:
    """By `get` as by `list`."""
    endpoint = stage.receiver.endpoint(Answer(404, b"gone", {"X-Reason": "a"}))
    letter = bury(stage, endpoint, stage.name("label"))

    assert stage.client.dlq.get(letter.dlq_id) == letter
    assert (letter.url, letter.body, letter.method, letter.max_retries) == (endpoint.url, "body", "POST", 0)
    assert letter.headers is not None
    assert (letter.headers["X-Test"], letter.headers["Content-Type"]) == (["one"], ["text/plain"])
    assert (letter.response_status, letter.response_body) == (404, "gone")
    assert letter.response_headers is not None
    assert letter.response_headers["X-Reason"] == ["a"]
    assert letter.label == stage.name("label")


def test_dead_letters_are_found_by_each_filter(stage: Stage) -> None:
    """Those that differ are not there."""
    endpoint = stage.receiver.endpoint(Answer(418))
    label, other = stage.name("label"), stage.name("other")
    letter = bury(stage, endpoint, label)
    bury(stage, stage.receiver.endpoint(Answer(500)), other)
    dlq = stage.client.dlq

    for found in (
        dlq.list(filter={"url": endpoint.url}),
        dlq.list(filter={"label": label}),
        dlq.list(filter={"response_status": 418}),
        dlq.list(filter={"label": label, "from_time": letter.created_at, "to_time": letter.created_at + 600_000}),
        dlq.list(filter={"label": label, "caller_ip": letter.caller_ip or "127.0.0.1"}),
    ):
        assert [it.dlq_id for it in found.messages] == [letter.dlq_id]
    for found in (
        dlq.list(filter={"label": label, "response_status": 500}),
        dlq.list(filter={"label": label, "url_group": "no-group"}),
        dlq.list(filter={"label": label, "queue": "no-queue"}),
        dlq.list(filter={"label": label, "schedule_id": "no-schedule"}),
        dlq.list(filter={"label": label, "to_time": 1}),
    ):
        assert found.messages == []


def test_dead_letters_are_listed_page_by_page(stage: Stage) -> None:
    """Each is there once; the last page has no cursor."""
    endpoint, label = stage.receiver.endpoint(Answer(500)), stage.name("label")
    buried = {bury(stage, endpoint, label).dlq_id for _ in range(3)}
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(4):
        page = stage.client.dlq.list(cursor=cursor, count=1, filter={"label": label})
        assert len(page.messages) <= 1
        seen += [it.dlq_id for it in page.messages]
        cursor = page.cursor
        if not cursor:
            break
    assert not cursor
    assert (len(seen), set(seen)) == (3, buried)


def test_dead_letters_are_deleted(stage: Stage) -> None:
    """One, and several; unknown ones do not count."""
    endpoint = stage.receiver.endpoint(Answer(500))
    one, two, three = (bury(stage, endpoint).dlq_id for _ in range(3))
    dlq = stage.client.dlq

    dlq.delete(one)
    assert dlq.delete_many([two, three, one]) == 2

    for id in (one, two, three):
        with pytest.raises(QStashError, match="status: 404"):
            dlq.get(id)
        with pytest.raises(QStashError, match="status: 404"):
            dlq.delete(id)
    assert dlq.list(filter={"url": endpoint.url}).messages == []
