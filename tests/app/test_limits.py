"""`flow.limits`: flow keys are shown and changed by hand."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from batchflow import Batchflow, FlowControl
from batchflow.errors import InputError, NotFoundError
from batchflow.testing import ManualClock, drive

KEY = "scan.execute"


class Stage:
    """An app without a worker whose one batch has a flow key."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.started = clock, list[int]()
        self.flow = Batchflow("sqlite://", clock=clock, worker=False)
        limits = FlowControl(parallelism=2, rate=50)

        @self.flow.batch(ids=["a", "b", "c"], flow=limits)
        async def scan(item_id: str) -> None:  # pyright: ignore[reportUnusedFunction]
            self.started.append(clock.now())

        self.scan = scan


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    stage = Stage(ManualClock())
    async with stage.flow:
        yield stage


async def test_a_pause_ends_by_itself(stage: Stage) -> None:
    """The items start when its time is over, though nobody does anything."""
    limits, begun = stage.flow.limits, stage.clock.now()
    status = await limits.pause(KEY, duration="2h")
    assert (status.paused, status.paused_until) == (True, begun + 7_200_000)
    await stage.scan.trigger()
    await drive(stage.flow, stage.clock)
    assert len(stage.started) == 3
    assert min(stage.started) >= begun + 7_200_000
    assert not (await limits.get(KEY)).paused


async def test_a_pin_survives_a_deploy_and_ends_by_itself(stage: Stage) -> None:
    """The limits that the code has by then are in force after it."""
    limits = stage.flow.limits
    status = await limits.pin(KEY, parallelism=1, rate="100/1m", duration="1h")
    assert status.limits == FlowControl(key=KEY, parallelism=1, rate=100, period="1m")
    await stage.flow.engine.store.declare([FlowControl(key=KEY, parallelism=7)])
    assert (await limits.get(KEY)).limits.parallelism == 1
    stage.clock.advance("1h")
    assert (await limits.get(KEY)).limits == FlowControl(key=KEY, parallelism=7)


async def test_pins_are_removed_one_by_one_or_all(stage: Stage) -> None:
    """By `unpin`, and by `reset` with the pause."""
    limits = stage.flow.limits
    await limits.pin(KEY, parallelism=9, rate=3, period="10s")
    status = await limits.unpin(KEY, parallelism=False)
    assert (status.pinned_parallelism, status.pinned_rate, status.limits.rate) == (True, False, 50)
    await limits.pause(KEY)
    status = await limits.reset(KEY)
    assert (status.pinned, status.paused, status.limits.parallelism) == (False, False, 2)
    await limits.pause(KEY)
    assert not (await limits.resume(KEY)).paused


async def test_keys_are_listed_in_pages(stage: Stage) -> None:
    """By name."""
    limits = stage.flow.limits
    first = await limits.list(limit=2)
    rest = await limits.list(after=first.next_cursor or "")
    names = [it.limits.key for it in [*first.keys, *rest.keys]]
    assert names == ["scan.complete", "scan.execute", "scan.paginate", "scan.process"]
    assert rest.next_cursor is None


async def test_holders_are_shown(stage: Stage) -> None:
    """The claimed items of the key."""
    store = stage.flow.engine.store
    await stage.flow.limits.pause(KEY)
    await stage.scan.trigger()
    await drive(stage.flow, stage.clock)
    await stage.flow.limits.resume(KEY)
    await store.register("w", 60_000)
    held = (await store.claim("w", ["/scan/execute-item"], 9)).claims
    found = await stage.flow.limits.holders(KEY)
    assert [it.id for it in found] == [it.id for it in held]
    assert [(it.item, it.worker) for it in found] == [("a", "w")] or len(found) == 2


@pytest.mark.parametrize("verb", ["get", "holders", "unpin", "pause", "resume", "reset"])
async def test_an_unknown_key_is_refused(stage: Stage, verb: str) -> None:
    """With the one that was meant; and none is made."""
    with pytest.raises(NotFoundError, match=r"there is no flow key 'scan\.exec'; did you mean 'scan\.execute'\?"):
        await getattr(stage.flow.limits, verb)("scan.exec")
    with pytest.raises(NotFoundError, match="known are"):
        await stage.flow.limits.pin("ö ?", parallelism=1)
    assert len((await stage.flow.limits.list()).keys) == 4


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "parallelism"),
        ({"parallelism": 0}, "parallelism"),
        ({"rate": "2x"}, "rate"),
        ({"rate": "0/s"}, "rate"),
        ({"rate": "/s"}, "rate"),
        ({"rate": "2/s", "period": "1m"}, "period"),
        ({"parallelism": 1, "period": "1m"}, "period"),
        ({"rate": 2, "period": "0s"}, "period"),
        ({"rate": 2, "duration": "soon"}, "duration"),
        ({"rate": 2, "duration": 0}, "duration"),
    ],
)
async def test_wrong_limits_are_refused(stage: Stage, options: dict[str, Any], field: str) -> None:
    """Before anything has changed, with the field at fault."""
    with pytest.raises(InputError) as caught:
        await stage.flow.limits.pin(KEY, **options)
    assert caught.value.field == field
    assert not (await stage.flow.limits.get(KEY)).pinned
