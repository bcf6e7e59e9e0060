"""`batchflow batches why`: what a batch waits for, from the store alone."""

import asyncio

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page
from tests.cli.command_line import CommandLine


class Greet(BatchWorkflow[NoParams]):
    """A workflow that nobody serves."""

    entity = "user"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["user-1"])

    async def execute(self, user_id: str) -> None:
        pass


def left_open(command: CommandLine) -> str:
    """A batch that no worker works on."""
    asyncio.run(trigger())
    return str(command("batches", "--json").document["batches"][0]["batchId"])


async def trigger() -> None:
    async with Batchflow(worker=False) as flow:
        await flow.add(Greet()).trigger(ids=["user-1"])


def test_why_prints_a_sentence_and_what_is_open(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 80 columns, with an error below its item."""
    monkeypatch.setenv("COLUMNS", "80")
    batch = left_open(command)
    found = command("batches", "why", batch)
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0].startswith(f"greet {batch}: no live worker serves it; it waits for ")
    assert "Open items (" in found.out or "Layers (" in found.out
    assert all(len(line) <= 80 for line in lines[1:])


def test_why_is_a_document_for_programs(command: CommandLine) -> None:
    """The one of the HTTP route."""
    batch = left_open(command)
    document = command("batches", "why", batch, "--json").document
    assert (document["batchId"], document["workflow"]) == (batch, "greet")
    assert document["sentence"].startswith("no live worker serves it")
    assert document["items"] or document["layers"]


def test_why_of_a_batch_that_is_done_says_since_when(command: CommandLine) -> None:
    """And nothing else."""
    batch = command("run", command.target, "--limit", "1", "--json").document["batchId"]
    found = command("batches", "why", batch)
    assert f"greet {batch}: it is done: completed since 20" in found.out
    assert len(found.out.splitlines()) == 1


def test_why_of_an_unknown_batch_is_refused(command: CommandLine) -> None:
    """In one sentence."""
    command("run", command.target, "--limit", "1", "--json")
    assert command("batches", "why", "bat_x").is_usage_error("there is no batch 'bat_x' here")
