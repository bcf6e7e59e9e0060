"""Deploys while messages of batches are in QStash: another version of the app gets them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchflow import Batchflow, FlowControl, RetryPolicy
from batchflow.batch.bound import Workflow
from batchflow.batch.workflow import NoParams
from batchflow.qstash.engine import QStashEngine
from tests.qstash.stage import APP_URL, WireStage


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(store=f"sqlite:///{tmp_path}/batches.db") as stage:
        yield stage


def add_batch(flow: Batchflow, name: str, calls: list[str]) -> Workflow[NoParams, None]:
    @flow.batch(name=name, ids=["a", "b", "c"], flow=FlowControl(parallelism=1, rate=1), retry=RetryPolicy.none())
    async def job(item: str) -> None:
        calls.append(item)

    return job


async def test_items_that_another_version_gets_wait_for_their_own_and_lose_no_attempt(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    others: list[str] = []
    job = add_batch(stage.flow, "job", calls)
    await stage.open()
    await job.trigger()
    await stage.drive(ms=1_500)
    assert 0 < len(calls) < 3
    await stage.flow.stop()

    stage.flow = stage.again()
    add_batch(stage.flow, "renamed", others)
    await stage.open()
    await stage.drive(ms=30_000)
    assert (others, set(stage.client.answers)) == ([], {200})
    assert "does not serve" in caplog.text
    assert "Traceback" not in caplog.text
    await stage.flow.stop()

    stage.flow = stage.again()
    add_batch(stage.flow, "job", calls)
    await stage.open()
    assert isinstance(stage.flow.engine, QStashEngine)
    await stage.flow.engine.give_due()
    await stage.drive(ms=600_000)
    (batch,) = await stage.flow.batches()
    status = await batch.status()
    assert (status.state, status.counts.succeeded, sorted(calls)) == ("completed", 3, ["a", "b", "c"])
