"""The limits of flow keys of an app on QStash, by `flow.limits`."""

from collections.abc import AsyncIterator

import pytest

from batchflow import FlowControl, WorkflowContext
from batchflow.errors import InputError, NotFoundError
from tests.qstash.stage import APP_URL, WireStage

KEY = "mail-api"


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param) as stage:

        @stage.flow.serve("/mail", flow_control=FlowControl(key=KEY, parallelism=2))
        async def mail(ctx: WorkflowContext[None]) -> str:  # pyright: ignore[reportUnusedFunction]
            return "sent"

        @stage.flow.serve("/unlimited")
        async def unlimited(ctx: WorkflowContext[None]) -> None:  # pyright: ignore[reportUnusedFunction]
            """Its key has no limits."""

        await stage.open()
        yield stage


async def test_a_key_is_listed_as_the_code_declares_it_before_its_first_run(stage: WireStage) -> None:
    (status,) = (await stage.flow.limits.list()).keys
    assert (status.limits.key, status.limits.parallelism, status.pinned) == (KEY, 2, False)
    with pytest.raises(NotFoundError, match="did you mean 'mail-api'"):
        await stage.flow.limits.get("mail-apo")


async def test_a_paused_key_starts_nothing_until_it_is_resumed(stage: WireStage) -> None:
    limits, mail = stage.flow.limits, stage.flow.served["/mail"]
    assert (await limits.pause(KEY)).paused
    run = await mail.trigger(None)
    await stage.drive(ms=60_000)
    assert not stage.client.requests
    assert (await limits.get(KEY)).waiting == 1
    with pytest.raises(TimeoutError, match="has paused the flow key 'mail-api'"):
        await run.wait(0)
    assert not (await limits.resume(KEY)).paused
    await stage.drive()
    assert await run.wait() == "sent"


async def test_pins_override_the_limits_of_the_code_until_they_are_removed(stage: WireStage) -> None:
    limits, mail = stage.flow.limits, stage.flow.served["/mail"]
    await mail.trigger(None)
    pinned = await limits.pin(KEY, parallelism=1, rate="100/1m")
    assert pinned.limits == FlowControl(key=KEY, parallelism=1, rate=100, period="1m", burst=100)
    assert (pinned.pinned_parallelism, pinned.pinned_rate) == (True, True)
    half = await limits.unpin(KEY, rate=False)
    assert (half.pinned_parallelism, half.pinned_rate) == (False, True)
    reset = await limits.reset(KEY)
    assert not reset.pinned
    await stage.drive()


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)
async def test_what_qstash_cannot_do_with_a_key_is_refused(stage: WireStage) -> None:
    limits = stage.flow.limits
    for change in (limits.pause(KEY, duration="2h"), limits.pin(KEY, parallelism=1, duration="2h")):
        with pytest.raises(InputError, match="undo it by hand: QStash has neither pins nor pauses that end"):
            await change
    with pytest.raises(InputError, match="write whole seconds"):
        await limits.pin(KEY, rate=1, period="1500ms")


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)
async def test_the_routes_of_flow_keys_are_those_of_qstash(stage: WireStage) -> None:
    async with stage.operator() as http:
        assert [it["key"] for it in (await http.get("/flow")).json()["keys"]] == [KEY]
        assert (await http.post(f"/flow/{KEY}/pause")).json()["paused"] is True
        assert (await http.post(f"/flow/{KEY}/pause", json={"duration": "2h"})).status_code == 422
        assert (await http.get(f"/flow/{KEY}")).json()["holders"] == []
        assert (await http.get("/flow/unknown")).status_code == 404
