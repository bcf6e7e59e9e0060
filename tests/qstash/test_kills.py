"""An app on QStash and its servers are killed at random, and much is lost: runs end all the same."""

import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.qstash.processes import AppProcess
from tests.sdk.server import ServerProcess, servers_of
from tests.waiting import wait_until_sync

RUNS_OF_EACH = 6
KILLS = 6


@pytest.fixture(params=["sqlite", "redis"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sequence[ServerProcess]]:
    """The servers of one store."""
    with servers_of(request.param, tmp_path) as servers:
        yield servers


async def test_runs_end_and_no_recorded_step_is_executed_again_though_the_app_and_its_servers_are_killed(
    servers: Sequence[ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are lost, and requests come twice at once."""
    with ExitStack() as running:
        app = AppProcess(servers[0].environment, tmp_path)
        running.callback(app.close)
        for name, value in {**app.environment, "EVIDENCE": os.devnull}.items():
            monkeypatch.setenv(name, value)
        # It has the environment of its first import.
        monkeypatch.delitem(sys.modules, "tests.qstash.killed_app", raising=False)
        from tests.qstash.killed_app import EXPECTED, PROGRAMS, flow

        async with flow:
            runs = {
                f"{name}-{number}": await program.trigger(number, run_id=f"{name}-{number}")
                for name, program in PROGRAMS.items()
                for number in range(RUNS_OF_EACH)
            }
            kill(app, servers)
            found: dict[str, Any] = {}
            for id, run in runs.items():
                found[id] = await run.wait("2m")
        wanted = {
            f"{name}-{number}": text.format(number) for name, text in EXPECTED.items() for number in range(RUNS_OF_EACH)
        }
        assert found == wanted
        check(app.evidence())


def kill(app: AppProcess, servers: Sequence[ServerProcess]) -> None:
    """Kill the app and servers by turns, each after some more steps, or after a while: a kill may leave all waiting."""
    chance = random.Random(16)
    for number in range(KILLS):
        least = len(app.evidence()) + chance.randint(5, 30)
        deadline = 300
        polls = iter(range(deadline))
        wait_until_sync(
            lambda n=least, p=polls: len(app.evidence()) >= n or next(p, None) is None, description="steps are executed"
        )
        killed = app if number % 2 else chance.choice(servers)
        killed.kill()
        killed.start()


def check(evidence: Sequence[Mapping[str, Any]]) -> None:
    """Fail if a step was executed in a request that has come after the step was recorded."""
    recorded: dict[tuple[str, str], int] = {}
    for it in evidence:
        if it["what"] == "recorded":
            recorded.setdefault((it["run"], it["step"]), it["at"])
    executed = [it for it in evidence if it["what"] == "executed"]
    assert len({(it["run"], it["step"]) for it in executed}) >= RUNS_OF_EACH * 14
    again = [it for it in executed if it["arrived"] > recorded.get((it["run"], it["step"]), it["arrived"])]
    assert again == []
