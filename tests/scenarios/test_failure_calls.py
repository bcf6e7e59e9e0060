"""A process that is killed between a death and its failure function: the call is not lost."""

import json
import signal
from pathlib import Path

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.core.dead_letters import DeadLetterQuery, FailureCall
from tests.engine.http_server import serving
from tests.scenarios.failing_program import app
from tests.scenarios.places import Place
from tests.scenarios.working import working
from tests.waiting import wait_until


async def run(place: Place, log: Path, url: str, mode: str, what: str) -> int:
    """Run the program to its end, and return how it ended."""
    with place.started(1, "failing_program", log, url, mode, what) as (process,):
        await wait_until(lambda: process.poll() is not None, description="the program has ended", timeout=300)
    return process.returncode


async def letter(place: Place) -> tuple[str, FailureCall]:
    """The dead letter of the place with its call. QStash has it soon after it was told."""
    found: list[tuple[str, FailureCall]] = []

    async def is_there() -> bool:
        letters, _ = await flow.engine.dead_letter_store.page(DeadLetterQuery(), 100, None)
        found[:] = [(it.id, it.failure) for it in letters if it.failure is not None]
        return bool(found)

    flow, _, _ = app(place.url, "", "http://127.0.0.1:1/", "")
    await flow.start(worker=False)
    await wait_until(is_there, description="there is a dead letter")
    await flow.stop()
    (only,) = found
    return only


def other_app(place: Place) -> Batchflow:
    """An app in the same place that knows nothing of the others."""
    other = Batchflow(place.url)

    @other.serve("/other")
    async def _(ctx: WorkflowContext[None]) -> None: ...

    return other


@pytest.mark.parametrize("what", ["function", "items"])
@pytest.mark.parametrize("mode", ["before", "during"])
async def test_a_failure_function_is_called_after_a_kill(place: Place, tmp_path: Path, mode: str, what: str) -> None:
    """Killed as soon as the death is stored, or in the call: another process calls it, once."""
    log = tmp_path / "log"
    assert await run(place, log, "http://127.0.0.1:1/", mode, what) == -signal.SIGKILL
    assert not log.exists()
    id, call = await letter(place)
    assert call.state == "in_progress"
    assert await run(place, log, "http://127.0.0.1:1/", "rest", what) == 0
    assert log.read_text().splitlines() == [f"{id} closed"]
    _, call = await letter(place)
    assert (call.state, json.loads(call.result or "")) == ("succeeded", "a" if what == "items" else "p")


async def test_a_notification_is_sent_after_a_kill(place: Place, tmp_path: Path) -> None:
    """Killed as soon as the end of the batch is stored: the worker of another app on the store sends it."""
    async with serving() as hooks:
        assert await run(place, tmp_path / "log", f"{hooks.url}/ended", "before", "end") == -signal.SIGKILL
        assert hooks.asked == []
        async with working(other_app(place)):
            await wait_until(lambda: bool(hooks.asked), description="the URL to be called", timeout=300)
        (asked,) = hooks.asked
    fields = json.loads(asked.body)
    assert (asked.path, fields["workflow"], fields["counts"]["failed"]) == ("/ended", "failing", 1)


async def test_a_failure_url_is_reached_though_its_app_is_gone(place: Place, tmp_path: Path) -> None:
    """The worker of another app on the store sends it, which knows nothing of the function."""
    async with serving() as hooks:
        assert await run(place, tmp_path / "log", f"{hooks.url}/failed", "before", "url") == -signal.SIGKILL
        async with working(other_app(place)):
            await wait_until(lambda: bool(hooks.asked), description="the failure URL to be called", timeout=300)
        (asked,) = hooks.asked
    fields = json.loads(asked.body)
    assert (asked.path, fields["status"], fields["maxRetries"]) == ("/failed", 489, 3)
    assert fields["url"].endswith("/url")
