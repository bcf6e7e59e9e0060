"""Servers are killed at random while programs run on the official workflow SDKs."""

import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from qstash import QStash

from tests.sdk.javascript import FOLDER
from tests.sdk.server import ServerProcess, client_of, servers_of
from tests.sdk.test_kills import PATIENT, delivered
from tests.sdk.workflows import Context, WorkflowServer, executed
from tests.waiting import wait_until_sync

KILLS = 5
PYTHON_RUNS = 10
# A request ends for the server only once its answer is recorded.
RECORDED_MS = 1_000
FOREVER = 2**63


class Arrived(NamedTuple):
    """A request that has arrived at an endpoint. Times are in ms."""

    run: str | None
    message: str
    steps: Sequence[str]
    started_at: int
    ended_at: int
    status: int | None


class Outage(NamedTuple):
    """The time from the kill of a server until it serves again."""

    begin: int
    end: int


@pytest.fixture(params=["sqlite", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sequence[ServerProcess]]:
    """The servers of one store."""
    with servers_of(request.param, tmp_path) as servers:
        yield servers


def test_workflow_runs_end_though_servers_are_killed(
    servers: Sequence[ServerProcess], node: str, tmp_path: Path
) -> None:
    """Each step is executed once unless its request was in flight at a kill, and deliveries are as the log has them."""
    environment, records = servers[0].environment, tmp_path / "records.json"
    workflows = WorkflowServer(environment)
    script = subprocess.Popen(
        [node, "--test-reporter=tap", "workflows/kills.mjs"],
        cwd=FOLDER,
        env={**os.environ, **environment, "RECORDS": str(records)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output: list[str] = []
    reading = threading.Thread(target=lambda: output.extend(script.stdout or ()))
    reading.start()
    try:
        url = workflows.add(python_steps, retries=20)
        begin_python_runs(environment, url)
        outages = kill(servers, lambda: requests_of(output) + len(workflows.requests))
        script.wait(timeout=200)
        reading.join()
        assert script.returncode == 0, "".join(output)
        with client_of(environment, PATIENT) as client:
            wait_until_sync(lambda: all_ended(client, url), description="the runs in Python have ended", timeout=120)
    finally:
        script.kill()
        script.wait()
        reading.join()
        assert script.stdout is not None
        script.stdout.close()
        workflows.close()

    found = json.loads(records.read_text())
    assert {state for state, _ in found["results"].values()} == {"RUN_SUCCESS"}
    arrived = [*from_javascript(found["requests"]), *from_python(workflows)]
    check_executions(arrived, outages)
    with client_of(environment, PATIENT) as client:

        def missing() -> list[Arrived]:
            return unrecorded(arrived, delivered(client), outages)

        # A run ends in its last request, whose answer the server has, and records, later.
        wait_until_sync(lambda: not missing(), description=lambda: f"answers are recorded: {missing()} {outages}")
        check_log(arrived, delivered(client))


async def python_steps(context: Context) -> None:
    """A run with a sleep between its steps."""
    for number in range(4):
        await context.run(f"step {number}", lambda number=number: executed(f"step {number}"))
    await context.sleep("sleep", 1)
    await context.run("last", lambda: executed("last"))


def begin_python_runs(environment: Mapping[str, str], url: str) -> None:
    with client_of(environment, PATIENT) as client:
        for number in range(PYTHON_RUNS):
            client.message.publish_json(url=url, body=number, deduplication_id=f"run-{number}")


def kill(servers: Sequence[ServerProcess], progress: Callable[[], int]) -> list[Outage]:
    """Kill servers, each after some more requests have arrived, or after a while: a kill may leave all runs waiting."""
    chance, outages = random.Random(15), list[Outage]()
    for _ in range(KILLS):
        least, latest = progress() + chance.randint(20, 100), now() + 2_000
        wait_until_sync(lambda n=least, t=latest: progress() >= n or now() > t, description="requests arrive")
        server, begin = chance.choice(servers), now()
        server.kill()
        server.start()
        outages.append(Outage(begin, now()))
    return outages


def requests_of(output: Sequence[str]) -> int:
    """The number of requests that the program in JavaScript has said last."""
    counts = [line.split()[1] for line in output[-20:] if line.startswith("requests ")]
    return int(counts[-1]) if counts else 0


def all_ended(client: QStash, url: str) -> bool:
    """Whether the runs of a workflow have ended, as many as have begun."""
    states, cursor = Counter[str](), ""
    while True:
        listed = client.http.request(
            path="/v2/workflows/events",
            method="GET",
            params={"groupBy": "workflowRunId", "workflowUrl": url, **({"cursor": cursor} if cursor else {})},
        )
        states.update(run["workflowState"] for run in listed["runs"])
        cursor = listed.get("cursor", "")
        if not cursor:
            return states["RUN_STARTED"] == 0 and states["RUN_SUCCESS"] >= PYTHON_RUNS


def from_javascript(requests: Sequence[Mapping[str, Any]]) -> Iterator[Arrived]:
    for it in requests:
        yield Arrived(
            it.get("run"), it["message"], it["steps"], it["startedAt"], it.get("endedAt") or FOREVER, it.get("status")
        )


def from_python(workflows: WorkflowServer) -> Iterator[Arrived]:
    for it in workflows.requests:
        message = it.headers["upstash-message-id"]
        yield Arrived(it.run, message, it.steps, it.started_at, it.ended_at or FOREVER, it.status)


def was_in_flight(request: Arrived, outages: Sequence[Outage]) -> bool:
    """Whether a server was killed, or away, between a request and the record of its answer."""
    return any(request.started_at <= it.end and it.begin <= request.ended_at + RECORDED_MS for it in outages)


def is_fine(request: Arrived) -> bool:
    """Whether a request was answered with 2xx."""
    return request.status is not None and request.status < 300


def check_executions(arrived: Sequence[Arrived], outages: Sequence[Outage]) -> None:
    """Fail if a step was executed twice though the request before was not in flight at a kill."""
    by_step: dict[tuple[str | None, str], list[Arrived]] = {}
    for request in sorted(arrived, key=lambda it: it.started_at):
        for step in request.steps:
            by_step.setdefault((request.run, step), []).append(request)
    assert len(by_step) >= 300
    twice = {step: found for step, found in by_step.items() if len(found) > 1}
    wrong = {step: found for step, found in twice.items() if not all(was_in_flight(it, outages) for it in found[:-1])}
    assert not wrong, f"{wrong} {outages}"


def unrecorded(
    arrived: Sequence[Arrived], entries: Mapping[str, Sequence[int]], outages: Sequence[Outage]
) -> list[Arrived]:
    """The requests whose message has no DELIVERED entry though they were answered and not in flight at a kill."""
    missing = {it.message for it in arrived if is_fine(it)} - entries.keys()
    return [it for it in arrived if it.message in missing and not was_in_flight(it, outages)]


def check_log(arrived: Sequence[Arrived], entries: Mapping[str, Sequence[int]]) -> None:
    """Fail if a message was delivered again after its DELIVERED entry, or has two, or one without an answer."""
    assert {id: times for id, times in entries.items() if len(times) != 1} == {}
    late = [it for it in arrived if it.message in entries and it.started_at > entries[it.message][0]]
    assert not late
    fine = {it.message for it in arrived if is_fine(it)}
    ours = {it.message for it in arrived}
    assert {id for id in entries if id in ours and id not in fine} == set()


def now() -> int:
    """The time in ms."""
    return time.time_ns() // 1_000_000
