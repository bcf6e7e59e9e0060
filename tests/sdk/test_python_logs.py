"""The log by the official Python SDK."""

import pytest
from qstash.errors import QStashError
from qstash.log import LogFilter, LogState

from tests.sdk.receiver import Answer
from tests.sdk.stage import Stage, message_id


def test_the_log_tells_what_happened_newest_first(stage: Stage) -> None:
    """Each entry has the message's URL; the error has the response."""
    endpoint = stage.receiver.endpoint(Answer(500, b"no", {"Retry-After": "0", "X-Reason": "a"}), Answer(200))
    id = message_id(stage.client.message.publish(url=endpoint.url, body="body", label=stage.name("label")))
    stage.wait_for_state(id, "DELIVERED")

    logs = stage.client.log.list(filter={"message_id": id}).logs

    assert [log.state.value for log in logs] == ["DELIVERED", "ACTIVE", "RETRY", "ERROR", "ACTIVE", "CREATED"]
    assert {(log.message_id, log.url, log.label) for log in logs} == {(id, endpoint.url, stage.name("label"))}
    assert [log.time for log in logs] == sorted((log.time for log in logs), reverse=True)
    error = next(log for log in logs if log.state is LogState.ERROR)
    assert (error.response_status, error.response_body) == (500, "no")
    assert error.response_headers is not None
    assert error.response_headers["X-Reason"] == ["a"]
    assert next(log for log in logs if log.state is LogState.RETRY).next_delivery_time is not None


def test_the_log_is_filtered(stage: Stage) -> None:
    """By each filter of the SDK, and by several at once."""
    endpoint, other = stage.receiver.endpoint(), stage.receiver.endpoint()
    label, queue, group = stage.name("label"), stage.name("queue"), stage.name("group")
    message = stage.client.message
    labelled = message_id(message.publish(url=endpoint.url, label=label))
    queued = message_id(message.enqueue(queue=queue, url=other.url))
    stage.client.url_group.upsert_endpoints(group, [{"url": other.url, "name": "the-endpoint"}])
    grouped = message_id(message.publish(url_group=group))
    for id in (labelled, queued, grouped):
        stage.wait_for_state(id, "DELIVERED")
    created = message.get(labelled).created_at

    def found(filter: LogFilter) -> set[str]:
        return {log.message_id for log in stage.client.log.list(filter=filter).logs}

    assert found({"label": label}) == {labelled}
    assert found({"queue": queue}) == {queued}
    assert found({"url_group": group}) == {grouped}
    assert found({"url": endpoint.url}) == {labelled}
    assert found({"message_ids": [labelled, queued]}) == {labelled, queued}
    assert found({"url": other.url, "state": LogState.DELIVERED}) == {queued, grouped}
    assert found({"url": other.url, "state": LogState.FAILED}) == set()
    assert found({"url": endpoint.url, "from_time": created, "to_time": created + 600_000}) == {labelled}
    assert found({"url": endpoint.url, "to_time": created - 600_000}) == set()
    assert found({"url": endpoint.url, "schedule_id": "no-schedule"}) == set()
    (entry,) = stage.client.log.list(filter={"message_id": grouped, "state": LogState.CREATED}).logs
    assert (entry.url_group, entry.endpoint) == (group, "the-endpoint")
    (entry,) = stage.client.log.list(filter={"message_id": queued, "state": LogState.CREATED}).logs
    assert entry.queue == queue


def test_the_log_is_listed_page_by_page(stage: Stage) -> None:
    """Each entry is there once; the last page has no cursor."""
    endpoint = stage.receiver.endpoint()
    ids = [message_id(stage.client.message.publish(url=endpoint.url)) for _ in range(3)]
    for id in ids:
        stage.wait_for_state(id, "DELIVERED")
    seen: list[tuple[str, str]] = []
    cursor: str | None = None
    for _ in range(10):
        page = stage.client.log.list(cursor=cursor, count=2, filter={"url": endpoint.url})
        assert len(page.logs) <= 2
        seen += [(log.message_id, log.state.value) for log in page.logs]
        cursor = page.cursor
        if not cursor:
            break
    assert not cursor
    assert sorted(seen) == sorted((id, state) for id in ids for state in ("CREATED", "ACTIVE", "DELIVERED"))


def test_an_unknown_filter_is_refused(stage: Stage) -> None:
    """It would otherwise be passed over, and everything found."""
    with pytest.raises(QStashError, match="status: 400"):
        stage.client.http.request(path="/v2/events", method="GET", params={"mesageId": "a"})
