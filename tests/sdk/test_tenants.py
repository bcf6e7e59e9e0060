"""Tokens, tenants and signing keys by the official Python SDK."""

from collections.abc import Callable

import pytest
from qstash import AsyncQStash, QStash
from qstash import Receiver as Verifier
from qstash.errors import QStashError

from tests.sdk.receiver import Answer
from tests.sdk.server import client_of
from tests.sdk.stage import Stage, message_id
from tests.waiting import wait_until_sync

VERBS: list[Callable[[QStash], object]] = [
    lambda it: it.message.publish(url="https://a.example"),
    lambda it: it.message.batch([{"url": "https://a.example"}]),
    lambda it: it.message.enqueue(queue="q", url="https://a.example"),
    lambda it: it.message.get("msg_a"),
    lambda it: it.message.cancel_all(),
    lambda it: it.queue.list(),
    lambda it: it.schedule.list(),
    lambda it: it.url_group.list(),
    lambda it: it.dlq.list(),
    lambda it: it.log.list(),
    lambda it: it.signing_key.get(),
    lambda it: it.flow_control.get("a"),
]


def test_a_wrong_token_is_refused_everywhere(stage: Stage) -> None:
    """As 401, and without a word about what there is."""
    with client_of({"QSTASH_TOKEN": "wrong", "QSTASH_URL": stage.server.url}) as stranger:
        for verb in VERBS:
            with pytest.raises(QStashError, match="status: 401"):
                verb(stranger)


def test_tenants_see_nothing_of_each_other(stage: Stage) -> None:
    """Messages, queues, schedules, groups, dead letters, logs, keys, flow keys: all have the same names."""
    endpoint = stage.receiver.endpoint(Answer(500))
    one, label, shared = stage.client, stage.name("label"), stage.name("shared")
    later = message_id(one.message.publish(url=endpoint.url, delay="1h", label=label))
    dead = message_id(
        one.message.publish(url=endpoint.url, retries=0, label=label, flow_control={"key": shared, "parallelism": 1})
    )
    stage.wait_for_state(dead, "FAILED")
    letter = one.dlq.list(filter={"label": label}).messages[0]
    one.queue.upsert(shared, parallelism=3)
    one.url_group.upsert_endpoints(shared, [{"url": endpoint.url}])
    schedule = one.schedule.create(destination=endpoint.url, cron="0 0 1 1 *", schedule_id=shared)

    with client_of(stage.server.add_tenant(stage.name("tenant"))) as two:
        reads: list[Callable[[], object]] = [
            lambda: two.message.get(later),
            lambda: two.message.cancel(later),
            lambda: two.dlq.get(letter.dlq_id),
            lambda: two.dlq.delete(letter.dlq_id),
            lambda: two.queue.get(shared),
            lambda: two.url_group.get(shared),
            lambda: two.schedule.get(schedule),
            lambda: two.flow_control.get(shared),
        ]
        for read in reads:
            with pytest.raises(QStashError, match="status: 404"):
                read()
        assert two.message.cancel_all() == two.message.cancel_many([later]) == two.dlq.delete_many([letter.dlq_id]) == 0
        assert (two.queue.list(), two.url_group.list(), two.schedule.list()) == ([], [], [])
        assert (two.dlq.list().messages, two.log.list().logs) == ([], [])
        assert two.signing_key.get() != one.signing_key.get()
        two.queue.upsert(shared, parallelism=9)
        two.schedule.create(destination="https://a.example", cron="0 0 2 2 *", schedule_id=shared)

    assert one.queue.get(shared).parallelism == 3
    assert one.schedule.get(shared).cron == "0 0 1 1 *"
    assert one.message.get(later).url == endpoint.url
    assert one.dlq.get(letter.dlq_id) == letter
    one.schedule.delete(shared)


def test_tenants_deduplicate_apart(stage: Stage) -> None:
    """The same id of two tenants is two messages, each signed with its tenant's key."""
    endpoint = stage.receiver.endpoint()
    stage.client.message.publish(url=endpoint.url, body="x", deduplication_id=stage.name("once"))
    mine = endpoint.only()
    with client_of(stage.server.add_tenant(stage.name("tenant"))) as two:
        two.message.publish(url=endpoint.url, body="x", deduplication_id=stage.name("once"))
        theirs = endpoint.first(2)[1]
        keys = two.signing_key.get()
    stage.verify(mine, endpoint.url)
    Verifier(keys.current, keys.next).verify(signature=theirs.headers["upstash-signature"], body="x", url=endpoint.url)


def test_rotated_keys_are_those_of_the_next_deliveries(stage: Stage) -> None:
    """A receiver that has the old pair accepts them, too: its next key is the current one now."""
    with client_of(stage.server.add_tenant(stage.name("tenant"))) as client:
        old = client.signing_key.get()
        new = client.signing_key.rotate()
        assert (new.current, client.signing_key.get()) == (old.next, new)
        assert new.next not in (old.current, old.next)

        def is_signed_with_the_new_key() -> bool:
            endpoint = stage.receiver.endpoint()
            client.message.publish(url=endpoint.url, body="x")
            signature = endpoint.only().headers["upstash-signature"]
            Verifier(old.current, old.next).verify(signature=signature, body="x", url=endpoint.url)
            try:
                Verifier(new.current, new.current).verify(signature=signature, body="x", url=endpoint.url)
            except QStashError:
                return False
            return True

        wait_until_sync(is_signed_with_the_new_key, description="the new key signs", timeout=90)


async def test_the_asynchronous_client_works_as_well(stage: Stage) -> None:
    """Its verbs send the same requests: one of each API."""
    endpoint, environment = stage.receiver.endpoint(), stage.server.environment
    client = AsyncQStash(environment["QSTASH_TOKEN"], base_url=environment["QSTASH_URL"])
    try:
        sent = await client.message.publish_json(url=endpoint.url, body={"a": 1}, delay="1h")
        id = message_id(sent)
        assert (await client.message.get(id)).url == endpoint.url
        await client.message.cancel(id)
        assert {log.state.value for log in (await client.log.list(filter={"message_id": id})).logs} >= {"CREATED"}
        assert isinstance(await client.queue.list(), list)
        assert isinstance(await client.schedule.list(), list)
        assert isinstance(await client.url_group.list(), list)
        assert isinstance((await client.dlq.list()).messages, list)
        assert (await client.signing_key.get()).current == environment["QSTASH_CURRENT_SIGNING_KEY"]
        assert (await client.flow_control.get_global_parallelism()).parallelism_count >= 0
    finally:
        await vars(client.http)["_client"].aclose()
