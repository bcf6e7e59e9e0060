"""`batchflow top`: open batches, flow keys and workers on one screen, from the store alone."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page
from batchflow.cli.top import Look
from batchflow.core.settlement import done
from batchflow.testing import ManualClock, drive
from tests.cli.command_line import CommandLine, wait_for_exit


class Scale(BatchWorkflow[NoParams]):
    """Images that nobody scales."""

    entity = "image"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["i1"])

    async def execute(self, image_id: str) -> None:
        pass


async def trigger(count: int) -> list[str]:
    """Open batches, of which the first is paused."""
    async with Batchflow(worker=False) as flow:
        scale = flow.add(Scale())
        batches = [await scale.trigger(label=f"day {number}") for number in range(count)]
        await batches[0].pause()
        await flow.engine.store.register("mail-1", 3_600_000, 8, scale.definition.routes)
        return [batch.id for batch in batches]


@pytest.mark.parametrize("columns", [80, 100])
def test_top_prints_one_frame_where_there_is_no_terminal(
    command: CommandLine, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the columns; batches beyond twenty are counted."""
    monkeypatch.setenv("COLUMNS", str(columns))
    newest = asyncio.run(trigger(32))[::-1]
    found = command("top")
    assert found.code == 0
    lines = found.out.splitlines()
    assert all(len(line) <= columns for line in lines)
    shown = [line.split()[0] for line in lines if line.startswith("bat_")]
    assert shown == newest[:20]
    assert "… 12 more" in lines
    assert [line.split()[:2] for line in lines if line.endswith("0 of 8")] == [["mail-1", "lost"]]
    again = command("top", "--once").out.splitlines()
    assert [_without_age(line) for line in again[1:]] == [_without_age(line) for line in lines[1:]]


def _without_age(line: str) -> str:
    return re.sub(r"\d+ *m?s ago", "", line)


def test_top_says_what_stops_a_batch(command: CommandLine) -> None:
    """A pause; that of its key."""
    asyncio.run(trigger(1))
    assert "paused" in command("top").out
    command("batches", "resume", "--workflow", "scale")
    assert "paused" not in command("top").out


def test_top_is_a_document_for_programs(command: CommandLine) -> None:
    """One line for each frame, until Ctrl-C, which is its regular end."""
    ids = asyncio.run(trigger(2))
    frame = json.loads(command("top", "--once", "--json").out)
    assert [it["batchId"] for it in frame["batches"]] == ids[::-1]
    assert [it["name"] for it in frame["workers"]] == ["mail-1"]
    assert (frame["hasMore"], frame["batches"][1]["paused"]) == (False, True)
    process = command.start("top", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["batches"]
    process.send_signal(signal.SIGINT)
    assert wait_for_exit(process).code == 0


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_top_ends_with_a_key(command: CommandLine, key: bytes) -> None:
    """On a terminal, with code 0 and the screen as it was before."""
    pty = pytest.importorskip("pty")
    asyncio.run(trigger(1))
    child, terminal = pty.fork()
    if child == 0:
        os.execve(
            sys.executable, [sys.executable, "-m", "batchflow.cli", "top"], command.environment({"TERM": "xterm"})
        )
    written = b""
    while b"scale" not in written:
        written += os.read(terminal, 65_536)
    os.write(terminal, key)
    try:
        while part := os.read(terminal, 65_536):
            written += part
    except OSError:
        pass  # Linux ends a terminal whose process has gone with an error.
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert written.endswith(b"\x1b[?1049l")


def test_top_without_a_store_is_refused(command: CommandLine) -> None:
    """In one sentence, as by the other commands."""
    assert command("top").is_usage_error("there is no database 'batchflow.db' here")
    assert not Path("batchflow.db").exists()


async def test_top_tells_why_a_batch_goes_no_faster() -> None:
    """No worker; a full key with its limit, or a paused one, without counting what waits."""
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        scale, store = flow.add(Scale()), flow.engine.store
        key = scale.definition.execute_flow.key or ""
        look = Look(flow.engine)
        assert "No open batches" in await shown(look)
        await scale.trigger(ids=["i1", "i2"])
        assert "no live worker serves it" in await shown(look)
        await store.pause(key)
        await drive(flow, clock)
        await store.register("mail-1", 3_600_000, 8, scale.definition.routes)
        assert "key paused" in await shown(look)
        await store.resume(key)
        await store.pin(FlowControl(key=key, parallelism=1))
        (claim,) = (await store.claim("mail-1", list(scale.definition.routes), 9)).claims
        text = await shown(look)
        assert "limit: parallelism 1" in text
        assert "1 of 1 pinned" in text
        await store.settle(done(claim, "null"))
        clock.advance("2s")
        assert "1/2 50%  0.5/s    2s" in await shown(look)


async def shown(look: Look) -> str:
    """The next frame."""
    return "\n".join(text for text, _ in (await look.next()).lines(100, 20))
