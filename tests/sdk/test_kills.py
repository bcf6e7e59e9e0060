"""Three servers on one store, killed at random while the official Python SDK publishes."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from qstash import QStash
from qstash.http import RetryConfig
from qstash.log import LogFilter, LogState

from tests.sdk.receiver import Receiver
from tests.sdk.server import ServerProcess, client_of, empty_store
from tests.sdk.stage import message_id
from tests.waiting import wait_until_sync

MESSAGES = 500
KILLS = 8
PUBLISHERS = 6
# A server that was killed is there again after some seconds, on a busy machine after minutes.
PATIENT = RetryConfig(retries=1_500, backoff=lambda _: 200)


@pytest.fixture(params=["sqlite", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """Three servers on one store."""
    with empty_store(request.param, tmp_path) as url, ExitStack() as running:

        def start(number: int) -> ServerProcess:
            server = ServerProcess(url, tmp_path, f"server-{number}")
            running.callback(server.kill)
            return server

        # The first one makes the token.
        first = start(0)
        with ThreadPoolExecutor() as threads:
            others = list(threads.map(start, (1, 2)))
        yield [first, *others]


def test_every_message_is_delivered_though_servers_are_killed(
    servers: Sequence[ServerProcess], receiver: Receiver
) -> None:
    """At least once, with exactly one DELIVERED entry, and not again after it; a schedule fires once a minute."""
    endpoint, scheduled = receiver.endpoint(), receiver.endpoint()
    token = servers[0].environment["QSTASH_TOKEN"]
    numbers = count()
    chance = random.Random(14)
    published: dict[int, str] = {}
    with client_of(servers[0].environment) as client:
        client.schedule.create(destination=scheduled.url, cron="* * * * *", schedule_id="each-minute")

    def publish(server: ServerProcess) -> None:
        with client_of({"QSTASH_TOKEN": token, "QSTASH_URL": server.url}, PATIENT) as client:
            while (number := next(numbers)) < MESSAGES:
                # The SDK repeats a request whose answer is lost; the id makes it one message.
                sent = client.message.publish(url=endpoint.url, body=str(number), deduplication_id=f"message-{number}")
                published[number] = message_id(sent)

    with ThreadPoolExecutor(PUBLISHERS) as threads:
        running = [threads.submit(publish, servers[number % len(servers)]) for number in range(PUBLISHERS)]
        for least in range(MESSAGES // KILLS, MESSAGES, MESSAGES // KILLS):
            wait_until_sync(lambda n=least: len(published) >= n, description=f"{least} are published", timeout=120)
            killed = chance.choice(servers)
            killed.kill()
            killed.start()
        for publisher in running:
            publisher.result()

    ids = set(published.values())
    assert len(ids) == MESSAGES
    with client_of({"QSTASH_TOKEN": token, "QSTASH_URL": servers[0].url}) as client:
        # What a killed server had begun is delivered again when its lease has run out.
        wait_until_sync(
            lambda: delivered(client, endpoint.url).keys() >= ids, description="all are delivered", timeout=180
        )
        entries = delivered(client, endpoint.url)
        scheduled.first(1, timeout=90)
        minutes = {it.message_id: client.message.get(it.message_id).created_at // 60_000 for it in scheduled.received}
        client.schedule.delete("each-minute")

    arrived: dict[str, list[int]] = {}
    for received in endpoint.received:
        assert published[int(received.body)] == received.message_id
        arrived.setdefault(received.message_id, []).append(received.at)
    assert set(arrived) == set(entries) == ids
    assert {id for id, found in entries.items() if len(found) != 1} == set()
    assert {id for id, times in arrived.items() if max(times) > entries[id][0]} == set()
    assert len(set(minutes.values())) == len(minutes)


def delivered(client: QStash, url: str | None = None) -> dict[str, list[int]]:
    """The times of the DELIVERED entries of all messages or those to a URL, by message."""
    where: LogFilter = {"state": LogState.DELIVERED} if url is None else {"state": LogState.DELIVERED, "url": url}
    found: dict[str, list[int]] = {}
    cursor: str | None = None
    while True:
        page = client.log.list(cursor=cursor, count=1000, filter=where)
        for log in page.logs:
            found.setdefault(log.message_id, []).append(log.time)
        cursor = page.cursor
        if not cursor:
            return found
