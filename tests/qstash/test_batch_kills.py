"""An app on QStash and its server are killed while they execute a batch: it completes all the same."""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.qstash.processes import AppProcess, looking
from tests.sdk.server import ServerProcess, empty_store
from tests.waiting import wait_until_sync

STEPS_BETWEEN_KILLS = 20


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of the app's store."""
    folder = tmp_path / "app"
    folder.mkdir()
    with empty_store(request.param, folder) as url:
        yield url


async def test_a_batch_completes_and_no_recorded_step_is_executed_again_though_the_app_and_its_server_are_killed(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as running:
        server = ServerProcess(f"sqlite:///{tmp_path / 'qstash.db'}", tmp_path)
        running.callback(server.kill)
        app = AppProcess({**server.environment, "STORE": store}, tmp_path, "killed_batch_app")
        running.callback(app.close)
        for name, value in {**app.environment, "EVIDENCE": os.devnull}.items():
            monkeypatch.setenv(name, value)
        # It has the environment of its first import.
        monkeypatch.delitem(sys.modules, "tests.qstash.killed_batch_app", raising=False)
        from tests.qstash.killed_batch_app import IDS, PARALLELISM, STEPS, flow, killed, result_of

        wait_until_sync(lambda: app.is_serving, description="the app serves")
        victims = (app, server, app, app)
        async with flow:
            with looking(app.environment):
                batch = await killed.trigger()
                for victim in victims:
                    kill(victim, app)
                await batch.wait("2m")
            status = await batch.status()
            assert (status.state, status.pages, status.counts.failed) == ("completed", 2, 0)
            assert status.counts.succeeded == len(IDS)
            assert {it.id: it.result async for it in batch.items()} == {id: result_of(id) for id in IDS}
            assert await killed.processed(IDS) == set(IDS)
        evidence = app.evidence()
        assert [it for it in evidence if it["what"] == "completed"]
        executed = Counter((it["id"], it["step"]) for it in evidence if it["what"] == "executed")
        assert executed.keys() == {(id, step) for id in IDS for step in STEPS}
        # Each kill of the app loses what it was executing.
        assert executed.total() - len(executed) <= victims.count(app) * PARALLELISM
        check(evidence)


def kill(victim: AppProcess | ServerProcess, app: AppProcess) -> None:
    """Kill it after some more steps."""

    def executed() -> int:
        return len([it for it in app.evidence() if it["what"] == "executed"])

    least = executed() + STEPS_BETWEEN_KILLS
    wait_until_sync(lambda: executed() >= least, description="steps are executed")
    victim.kill()
    victim.start()


def check(evidence: Sequence[Mapping[str, Any]]) -> None:
    """Fail if a step was executed after it was recorded, or twice by one process."""
    recorded: dict[tuple[str, str], int] = {}
    processes: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for it in evidence:
        step = (it["id"], it["step"])
        if it["what"] == "recorded":
            recorded.setdefault(step, it["at"])
        if it["what"] == "executed":
            assert it["at"] < recorded.get(step, it["at"] + 1), f"{step} was executed again"
            processes[step].append(it["process"])
    assert [step for step, ran in processes.items() if len(ran) != len(set(ran))] == []
