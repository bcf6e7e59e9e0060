"""URL groups by the official Python SDK."""

import pytest
from qstash.errors import QStashError
from qstash.message import PublishUrlGroupResponse

from tests.sdk.receiver import Answer
from tests.sdk.stage import Stage


def test_a_url_group_is_made_changed_and_deleted(stage: Stage) -> None:
    """Its URLs are known by their name or by themselves."""
    name, groups = stage.name("group"), stage.client.url_group
    groups.upsert_endpoints(name, [{"url": "https://a.example", "name": "a"}, {"url": "https://b.example"}])
    groups.upsert_endpoints(name, [{"url": "https://c.example", "name": "a"}, {"url": "https://d.example"}])
    changed = groups.get(name)

    assert (changed.name, changed in groups.list()) == (name, True)
    assert {(it.name or None, it.url) for it in changed.endpoints} == {
        ("a", "https://c.example"),
        (None, "https://b.example"),
        (None, "https://d.example"),
    }
    groups.remove_endpoints(name, [{"name": "a"}, {"url": "https://b.example"}])
    assert [it.url for it in groups.get(name).endpoints] == ["https://d.example"]
    groups.remove_endpoints(name, [{"url": "https://d.example"}])
    with pytest.raises(QStashError, match="status: 404"):
        groups.get(name)
    groups.upsert_endpoints(name, [{"url": "https://a.example"}])
    groups.delete(name)
    groups.delete(name)
    assert name not in [it.name for it in groups.list()]


def test_a_message_to_a_url_group_is_delivered_to_each_url(stage: Stage) -> None:
    """Each has retries of its own; deduplication is per URL."""
    name = stage.name("group")
    one, two = stage.receiver.endpoint(), stage.receiver.endpoint(Answer(500, b"", {"Retry-After": "0"}), Answer(200))
    stage.client.url_group.upsert_endpoints(name, [{"url": one.url, "name": "one"}, {"url": two.url}])

    def publish() -> list[PublishUrlGroupResponse]:
        answers = stage.client.message.publish_json(url_group=name, body={"a": 1}, deduplication_id=stage.name("once"))
        assert isinstance(answers, list)
        return answers

    first, second = publish(), publish()

    assert sorted(it.url for it in first) == sorted([one.url, two.url])
    assert len({it.message_id for it in first}) == 2
    assert [it.message_id for it in first] == [it.message_id for it in second]
    assert [it.deduplicated for it in (*first, *second)] == [False, False, True, True]
    assert one.only().headers["upstash-topic-name"] == name
    assert [it.retried for it in two.first(2)] == [0, 1]
    assert len(one.received) == 1
    message = stage.client.message.get(next(it.message_id for it in first if it.url == one.url))
    assert (message.url_group, message.endpoint, message.url) == (name, "one", one.url)


def test_a_message_to_an_unknown_url_group_is_refused(stage: Stage) -> None:
    """With its name."""
    with pytest.raises(QStashError, match="no-such-group"):
        stage.client.message.publish(url_group="no-such-group")
