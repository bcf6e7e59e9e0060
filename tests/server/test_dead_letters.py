"""The dead letters of a server as the command line, Python and the HTTP routes of an app see them, on both stores."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow.cli import dlq
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, Message
from batchflow.core.ports import Runtime
from batchflow.core.posts import PUSH_DESTINATION, PUSH_FAILURE_DESTINATION
from batchflow.core.settlement import dead
from batchflow.engine.engine import Engine
from batchflow.engine.push_messages import PushFailures
from batchflow.http.dead_letters import DeadLetterEndpoints
from batchflow.serve.dead_letters import DeadLetters
from batchflow.testing.clock import FixedEntropy, ManualClock
from tests.server.failing_runs import FailingRuns

CHARGE = "/charge"
WAY = "POST /v2/workflows/dlq/resume/ID or /v2/workflows/dlq/restart/ID"


@pytest.fixture
def runs(engine: Engine, clock: ManualClock) -> FailingRuns:
    """Workflow runs in the store of the server."""
    return FailingRuns(engine, clock)


@pytest.fixture
async def posts(http: AsyncClient, runs: FailingRuns, clock: ManualClock) -> list[str]:
    """The dead letters of two runs and of a message, the latest first."""
    of_runs = [await runs.failed(f"wfr_{number}") for number in range(2)]
    message = (await http.post("/v2/publish/https://user:pass@app.example/hook?key=s3cret")).json()["messageId"]
    clock.advance("1s")
    await runs.fail(message, None)
    return [message, *reversed(of_runs)]


@pytest.fixture
async def charge(engine: Engine, posts: list[str], clock: ManualClock) -> str:
    """A dead letter that is no post, the latest of all."""
    assert posts
    await engine.store.publish([Message(id="run_1", destination=CHARGE, flow=FlowControl(key="charge"), body="1")])
    clock.advance("1s")
    claim = await claimed(engine, CHARGE)
    await engine.store.settle(dead(claim, "RuntimeError: declined"))
    return claim.id


@pytest.fixture
def letters(engine: Engine) -> DeadLetters:
    """`flow.dead_letters` of an app on the store."""
    return DeadLetters(engine)


@pytest.fixture
def command_line(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands use the store."""

    @asynccontextmanager
    async def open_engine(url: str | None) -> AsyncGenerator[Engine]:
        yield engine

    monkeypatch.setattr(dlq, "open_engine", open_engine)


async def claimed(engine: Engine, destination: str) -> Claim:
    """The message that is due there."""
    await engine.store.register("worker", 30_000)
    (claim,) = (await engine.store.claim("worker", [destination], 1)).claims
    return claim


async def listed(letters: DeadLetters) -> list[str]:
    """The ids of all dead letters."""
    return [it.id for it in (await letters.list()).letters]


@pytest.mark.parametrize("command", ["resume", "restart"])
async def test_python_leaves_posts_alone(letters: DeadLetters, posts: list[str], charge: str, command: str) -> None:
    """Named or in a filter: they stay, they are counted, and there is a sentence; the others are redriven."""
    act = letters.resume if command == "resume" else letters.restart
    named = await act(*posts)
    assert (named.count, named.refused, named.posts, await listed(letters)) == (0, posts, 3, [charge, *posts])
    assert named.advice is not None
    assert named.advice.endswith("(3 left alone)")
    assert WAY in named.advice
    everything = await act(all=True)
    assert (everything.ids, everything.refused, everything.posts) == ([charge], posts, 3)
    assert await listed(letters) == posts
    assert (await act("unknown")).advice is None


async def test_http_leaves_posts_alone(engine: Engine, letters: DeadLetters, posts: list[str], charge: str) -> None:
    """As Python does; a command of any app of the store could lose them."""
    router, app = APIRouter(), FastAPI()
    DeadLetterEndpoints(engine, max_body=1_000).add_routes(router)
    app.include_router(router)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app.test") as client:
        for command in ("resume", "restart"):
            named = (await client.post(f"/dlq/{command}", json={"dlqIds": posts})).json()
            assert (named["count"], named["refused"], WAY in named["advice"]) == (0, posts, True)
            found = (await client.post(f"/dlq/{command}", json={"label": "ours"})).json()
            assert (found["count"], found["refused"], WAY in found["advice"]) == (0, posts, True)
        everything = (await client.post("/dlq/resume", json={"all": True})).json()
        assert (everything["dlqIds"], everything["refused"]) == ([charge], posts)
        assert await listed(letters) == posts
        deleted = (await client.post("/dlq/delete", json={"dlqIds": posts})).json()
        assert (deleted["count"], deleted["advice"]) == (3, None)


@pytest.mark.usefixtures("command_line")
async def test_commands_leave_posts_alone(
    letters: DeadLetters, posts: list[str], charge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1 if there was nothing else."""
    for command in (dlq.ResumeDeadLetters, dlq.RestartDeadLetters):
        assert await command(ids=[posts[1]]).execute() == 1
        done, refused, advice = capsys.readouterr().out.splitlines()
        assert done.endswith(" 0 dead letters")
        assert refused == f"refused: {posts[1]}"
        assert WAY in advice
    assert await dlq.ResumeDeadLetters(all=True).execute() == 0
    assert capsys.readouterr().out.startswith(f"Resumed 1 dead letter\nrefused: {', '.join(posts)}\n")
    assert await listed(letters) == posts
    assert charge not in posts


@pytest.mark.usefixtures("command_line", "charge")
@pytest.mark.parametrize("columns", [80, 100])
async def test_commands_show_what_posts_are_about(
    posts: list[str], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tenant, URL, run and the way to deliver them again; no query, no header and no body."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert await dlq.ListDeadLetters().execute() == 0
    assert capsys.readouterr().out.count("  tenant ours\n") == 3
    assert await dlq.ShowDeadLetter(id=posts[0]).execute() == 0
    message = capsys.readouterr().out
    assert re.search(r"sent to +https://app.example/hook\?…\n", message)
    assert re.search(rf"retry +POST /v2/dlq/retry/{posts[0]}\n", message)
    assert await dlq.ShowDeadLetter(id=posts[1]).execute() == 0
    run = capsys.readouterr().out
    assert re.search(r"workflow run +wfr_1\n", run)
    for way in ("resume", "restart"):
        assert re.search(rf"{way} +POST /v2/workflows/dlq/{way}/{posts[1]}\n", run)
    assert await dlq.ListDeadLetterGroups().execute() == 0
    groups = capsys.readouterr().out
    assert WAY in groups
    assert "dlq resume --group" not in groups
    assert "s3cret" not in message + groups


@pytest.mark.usefixtures("command_line")
async def test_callback_records_the_end_of_a_post_whose_message_about_it_is_used_up(
    http: AsyncClient, engine: Engine, clock: ManualClock, runs: FailingRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its run fails then, and the DLQ of the server has it; before, `show` says what to do."""
    id = await runs.begin()
    lost = await claimed(engine, PUSH_DESTINATION)
    await engine.store.settle(dead(lost, "WorkerLost: its workers were lost"))
    about = await claimed(engine, PUSH_FAILURE_DESTINATION)
    await engine.store.settle(dead(about, "WorkerLost: its workers were lost"))
    assert (await http.get("/v2/workflows/dlq")).json()["messages"] == []
    assert await dlq.ShowDeadLetter(id=id).execute() == 0
    assert re.search(rf"end +not recorded; '.* dlq callback {id}' records it\n", capsys.readouterr().out)
    assert await dlq.CallFailureFunctions(ids=[id]).execute() == 0
    again = await claimed(engine, PUSH_FAILURE_DESTINATION)
    unused = cast("Any", None)
    runtime = Runtime(journaling=unused, clock=clock, entropy=FixedEntropy(), threads=unused)
    await engine.store.settle(await PushFailures(engine.store, runs.wire).deliver(again, runtime))
    assert (await runs.run()).state == "RUN_FAILED"
    assert [it["dlqId"] for it in (await http.get("/v2/workflows/dlq")).json()["messages"]] == [id]
