"""Work that no worker serves: told wherever somebody would look for it."""

import asyncio

import pytest

from batchflow.cli.target import load_flow
from tests.cli.command_line import CommandLine
from tests.cli.functions import trigger_run


async def _trigger(target: str) -> str:
    flow = load_flow(target)
    await flow.start(worker=False)
    try:
        return (await flow.workflows["greet"].trigger()).id
    finally:
        await flow.stop()


def test_run_that_nobody_serves_is_told_beside_the_workers(shop: CommandLine) -> None:
    """With the number of its messages; also in the document."""
    trigger_run(shop, "a7")
    answer = shop("workers")
    assert (answer.code, answer.out.splitlines()) == (
        0,
        ["No workers", "No worker serves /orders/ship: 1 message cannot start"],
    )
    (work,) = shop("workers", "--json").document["unserved"]
    assert (work["destination"], work["waiting"]) == ("/orders/ship", 1)


def test_batch_that_nobody_serves_is_told_in_the_list(command: CommandLine) -> None:
    """Until somebody does."""
    id = asyncio.run(_trigger(command.target))
    assert "no worker serves it" in command("batches").out
    assert id in command("workers").out or "/greet/process-users" in command("workers").out
    assert command("run", command.target).code == 0
    assert "no worker serves it" not in command("batches").out
    assert command("workers").out == "No workers\n"


def test_wait_says_that_nobody_serves_its_batch(command: CommandLine) -> None:
    """Its error is not only that the time is over."""

    async def wait() -> None:
        flow = load_flow(command.target)
        await flow.start(worker=False)
        try:
            handle = await flow.workflows["greet"].trigger()
            with pytest.raises(TimeoutError, match="nobody serves '/greet/process-users'"):
                await handle.wait(0.01)
        finally:
            await flow.stop()

    asyncio.run(wait())


def test_history_of_an_item_is_told_over_its_batches(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first; what was skipped as processed is in none."""
    monkeypatch.setenv("FAIL", "user-003")
    first = command("run", command.target, "--json").document["batchId"]
    monkeypatch.setenv("FAIL", "")
    second = command("run", command.target, "--json").document["batchId"]
    answer = command("items", "greet", "user-003")
    _, *rows, more = answer.out.splitlines()
    assert [row.split()[:4] for row in rows] == [[second, "0", "succeeded", "1"], [first, "3", "failed", "1"]]
    assert rows[1].endswith("NonRetryable: no greeting for user-003")
    assert more == f"more: batchflow batches item {second} 0"
    document = command("items", "greet", "user-003", "--json").document
    assert [(it["batchId"], it["state"]) for it in document["items"]] == [(second, "succeeded"), (first, "failed")]
    nothing = command("items", "greet", "user-99")
    assert (nothing.code, nothing.out.startswith("No batch of 'greet' here has started 'user-99'")) == (1, True)
