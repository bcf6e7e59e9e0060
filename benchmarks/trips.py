"""Counts what a call goes through: `python -m benchmarks.trips [--files]`.

For each trip through the package it prints how many files of batchflow are executed, how many functions, and how often
execution goes from one file to another. Whoever follows one `await ctx.run(…)` opens as many files as its row says.
"""

import asyncio
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

import batchflow
from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext

PACKAGE = f"{Path(batchflow.__file__).parent}/"
REST_S = 0.5
"""The time limit of a trip."""


class Trip(NamedTuple):
    """The functions executed between two moments."""

    name: str
    calls: list[tuple[int, str, str]]

    def files(self) -> set[str]:
        """The files in which a function ran."""
        return {file for _, file, _ in self.calls}

    def row(self) -> tuple[str, str, str, str]:
        """Name, files, functions and changes of file within a thread, as text."""
        last: dict[int, str] = {}
        changes = 0
        for thread, file, _ in self.calls:
            changes += last.get(thread, file) != file
            last[thread] = file
        functions = {(file, function) for _, file, function in self.calls}
        return self.name, str(len(self.files())), str(len(functions)), str(changes)


class Recorder:
    """Records the functions of the package that run, in every thread."""

    def __init__(self) -> None:
        self.trips: list[Trip] = []
        self._calls: list[tuple[int, str, str]] | None = None

    def profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        """The hook for `sys.setprofile`: notes the start of a function."""
        if self._calls is not None and event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            code = frame.f_code
            self._calls.append((threading.get_ident(), code.co_filename.removeprefix(PACKAGE), code.co_qualname))

    def ends(self, name: str) -> None:
        """Keep what ran since the last trip as one of this name."""
        assert self._calls is not None
        self.trips.append(Trip(name, self._calls))
        self._calls = []

    @asynccontextmanager
    async def recording(self, name: str) -> AsyncGenerator[None]:
        """One trip: the body, and what it leaves running for a moment."""
        self._calls = []
        yield
        await asyncio.sleep(REST_S)
        self.ends(name)
        self._calls = None


class Users(BatchWorkflow[NoParams, str, str]):
    """One item for each trigger, with the three steps of the pattern."""

    entity = "user"

    def __init__(self) -> None:
        self.saved = 0

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        """One page with one item."""
        return Page(ids=[f"u{self.saved}"])

    async def load(self, user_id: str) -> str:
        """The item is its id."""
        return user_id

    async def execute(self, user: str) -> str:
        """Something to save."""
        return user.upper()

    async def save(self, user_id: str, result: str) -> None:
        """Count it."""
        self.saved += 1


async def travel(recorder: Recorder, url: str) -> None:
    """Each trip once."""
    flow = Batchflow(url)
    users = flow.add(Users())

    @flow.serve("/one-step")
    async def one_step(ctx: WorkflowContext[str]) -> str:
        return await ctx.run("double", double, ctx.payload)

    @flow.serve("/reply")
    async def reply(ctx: WorkflowContext[str]) -> str:
        await ctx.wait_for_event("reply", "reply", timeout="1h")
        return ctx.payload

    app = FastAPI(lifespan=flow.lifespan)
    app.include_router(flow.router, prefix="/api/workflows")
    async with flow, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as http:
        async with recorder.recording("one ctx.run: claim to settlement"):
            await one_step.trigger("a")
            recorder.ends("trigger of a function")
        await reply.trigger("a")
        await asyncio.sleep(REST_S)
        async with recorder.recording("one notify: notified to settled"):
            await flow.notify("reply", {"yes": True})
        async with recorder.recording("one item: entry to completion"):
            await users.trigger()
            recorder.ends("trigger of a batch")
        async with recorder.recording("one POST's batch"):
            answer = await http.post("/api/workflows/users/process-users", json={})
            recorder.ends("one POST: request to answer")
        assert answer.status_code == 202, answer.text


def double(text: str) -> str:
    """A step."""
    return text * 2


def main() -> None:
    """Go each way twice, as the first of them fills caches, and print what the second went through."""
    recorder = Recorder()
    sys.setprofile(recorder.profile)
    threading.setprofile(recorder.profile)
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            recorder.trips.clear()
            asyncio.run(travel(recorder, f"sqlite:///{folder}/trips{number}.db"))
    sys.setprofile(None)
    table = Table("trip", "files", "functions", "changes of file")
    for trip in recorder.trips:
        table.add_row(*trip.row())
    console = Console()
    console.print(table)
    if "--files" in sys.argv:
        for trip in recorder.trips:
            console.print(f"\n{trip.name}:", *sorted(trip.files()), sep="\n  ")


if __name__ == "__main__":
    main()
