"""The collector of groups: items that join and leave, calls that are cancelled, and places that come back."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from batchflow.batch.collector import Collector
from batchflow.batch.hook_scope import CURRENT_HOOK, HookScope
from batchflow.batch.logs import LayerLog
from batchflow.batch.workflow import BatchWorkflow, NoParams
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.ports import Groups, Interrupts, Lease, Runtime
from batchflow.errors import RateLimited
from batchflow.serve.delivery_scope import CURRENT_DELIVERY, DeliveryScope
from tests.batch.model import Model


class Texts(BatchWorkflow[NoParams, str, str], ids_only=True):
    """Its calls end when a test lets them; `stubborn` ones swallow their cancellation."""

    group_size = 3
    group_wait: ClassVar[Duration] = "1h"
    execute_flow: ClassVar[FlowControl | None] = None

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.ended: list[str] = []
        self.gate = asyncio.Event()
        self.error: BaseException | None = None
        self.stubborn = False

    async def execute_many(self, items: list[str]) -> list[str]:
        self.calls.append(items)
        try:
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    if not self.stubborn:
                        raise
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        if self.error is not None and len(items) > 1:
            raise self.error
        self.ended.append("returned")
        return [item.upper() for item in items]


class OneAtATime(Texts, ids_only=True):
    group_parallelism = 1


class LostLease(Exception):
    """The attempt was given up."""


class Stage:
    """A collector, and items that wait in it."""

    def __init__(self, workflow: BatchWorkflow[Any, Any, Any], runtime: Runtime) -> None:
        self.runtime = runtime
        self.groups: Groups = runtime.groups
        definition = workflow.__batch__
        self.collector = Collector(definition, workflow.execute_many, runtime, LayerLog("texts", "execute"))
        self.deliveries: dict[str, DeliveryScope] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    def put(self, item: str, batch: str = "bat_1") -> "asyncio.Task[Any]":
        task = asyncio.create_task(self._process(item, batch))
        self.tasks.append(task)
        return task

    async def _process(self, item: str, batch: str) -> Any:
        claim: Any = SimpleNamespace(id=f"run_{item}", fence=1, batch=batch, destination="/texts/execute-item")
        self.deliveries[item] = DeliveryScope(self.runtime.threads, self.runtime)
        CURRENT_DELIVERY.set(self.deliveries[item])
        CURRENT_HOOK.set(HookScope(cast("Any", None), "texts", NoParams(), batch, item))

        def give_up() -> None:
            raise LostLease

        return await self.collector.process(cast("Any", SimpleNamespace(claim=claim, give_up=give_up)), item)

    @property
    def is_empty(self) -> bool:
        """True if nothing is left of any group or call."""
        return not (self.groups.waiting or self.groups.calls or self.groups.next_due)


def runtime_with(model: Model, lease: Lease | None = None) -> Runtime:
    return Runtime(
        journaling=model,
        clock=model.clock,
        entropy=model.runtime.entropy,
        threads=model.runtime.threads,
        lease=lease,
        interrupts=Interrupts(),
    )


@pytest.fixture
async def start(model: Model) -> AsyncIterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def begin(workflow: BatchWorkflow[Any, Any, Any], lease: Lease | None = None) -> Stage:
        stages.append(Stage(workflow, runtime_with(model, lease)))
        return stages[-1]

    yield begin
    for stage in stages:
        for task in (*stage.tasks, *stage.groups.calls):
            task.cancel()
        await asyncio.gather(*stage.tasks, return_exceptions=True)


Start = Callable[..., Stage]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Groups


async def test_a_full_group_is_called_at_once_and_the_next_one_waits(start: Start) -> None:
    """Groups of two batches fill beside each other."""
    texts = Texts()
    texts.gate.set()
    stage = start(texts)
    first = [stage.put(item) for item in "abc"]
    second = [stage.put(item, "bat_2") for item in "xy"]
    rest = stage.put("d")
    assert await asyncio.gather(*first) == ["A", "B", "C"]
    assert texts.calls == [["a", "b", "c"]]
    assert stage.groups.waiting == 3
    stage.groups.call_all()
    assert await asyncio.gather(*second, rest) == ["X", "Y", "D"]
    await turns()
    assert stage.is_empty


async def test_a_group_waits_no_longer_than_its_time(start: Start) -> None:
    """Counted on the event loop from its first item on."""

    class Quick(Texts, ids_only=True):
        group_wait = "1ms"

    texts = Quick()
    texts.gate.set()
    assert await start(texts).put("a") == "A"


async def test_an_item_that_leaves_before_the_call_is_not_in_it(start: Start) -> None:
    """Its place is another's; a group that all have left is gone, with its timer."""
    texts = Texts()
    texts.gate.set()
    stage = start(texts)
    gone, alone = stage.put("a"), stage.put("x", "bat_2")
    await turns()
    gone.cancel()
    alone.cancel()
    await turns()
    assert stage.is_empty
    others = [stage.put(item) for item in "bcd"]
    assert await asyncio.gather(*others) == ["B", "C", "D"]
    assert texts.calls == [["b", "c", "d"]]


async def test_calls_over_the_limit_wait_and_their_groups_fill_meanwhile(start: Start) -> None:
    """With `group_parallelism = 1` the next group takes items until it has its turn."""
    texts = OneAtATime()
    stage = start(texts)
    items = [stage.put(item) for item in "abcd"]
    await turns()
    stage.groups.call_all()
    items += [stage.put(item) for item in "e"]
    await turns()
    assert texts.calls == [["a", "b", "c"]]
    texts.gate.set()
    assert await asyncio.gather(*items) == list("ABCDE")
    assert texts.calls[1:] == [["d", "e"]]
    await turns()
    assert stage.is_empty


# Leaving a call


async def test_an_item_that_leaves_does_not_hurt_the_others(start: Start) -> None:
    """The call goes on, and its result for the one is dropped."""
    texts = Texts()
    stage = start(texts)
    a, b, c = (stage.put(item) for item in "abc")
    await turns()
    b.cancel()
    await turns()
    texts.gate.set()
    assert await asyncio.gather(a, c) == ["A", "C"]
    assert b.cancelled()
    assert texts.ended == ["returned"]


async def test_a_call_that_all_items_have_left_is_cancelled(start: Start) -> None:
    """And nothing of it is left."""
    texts = Texts()
    stage = start(texts)
    items = [stage.put(item) for item in "abc"]
    await turns()
    for item in items:
        item.cancel()
    await turns()
    assert texts.ended == ["CancelledError"]
    assert stage.is_empty


async def test_a_call_that_swallows_its_cancellation_gives_its_place_back(start: Start) -> None:
    """The next group is called although the first call still hangs."""
    texts = OneAtATime()
    texts.stubborn = True
    stage = start(texts)
    hung = [stage.put(item) for item in "abc"]
    waiting = [stage.put(item) for item in "def"]
    await turns()
    for item in hung:
        item.cancel()
    await turns()
    assert texts.calls == [["a", "b", "c"], ["d", "e", "f"]]
    texts.gate.set()
    assert await asyncio.gather(*waiting) == ["D", "E", "F"]
    await turns()
    assert stage.is_empty


async def test_an_item_that_left_is_in_no_half(start: Start) -> None:
    """A call that fails afterwards is repeated for those that are left."""
    texts = Texts()
    texts.error = ValueError("one of them is bad")
    stage = start(texts)
    a, b, c = (stage.put(item) for item in "abc")
    await turns()
    a.cancel()
    await turns()
    texts.gate.set()
    assert await asyncio.gather(b, c) == ["B", "C"]
    assert texts.calls == [["a", "b", "c"], ["b"], ["c"]]


async def test_each_item_gets_the_error_with_the_frames_of_the_call_alone(start: Start) -> None:
    """The same exception is raised for many items, and its traceback does not grow with them."""
    texts = Texts()
    texts.error = TimeoutError("no answer")
    texts.gate.set()
    stage = start(texts)
    lengths: list[int] = []
    for item in [stage.put(item) for item in "abc"]:
        try:
            await item
        except TimeoutError as error:
            at, length = error.__traceback__, 0
            while at is not None:
                at, length = at.tb_next, length + 1
            lengths.append(length)
    assert len(set(lengths)) == 1


# Waiting and time limits


async def test_waiting_for_the_call_is_not_the_time_of_an_item(start: Start) -> None:
    """Neither in the group, nor for its turn, nor while another half is called: it does not count in `item_timeout`."""
    texts = OneAtATime()
    stage = start(texts)
    for item in "abcdef":
        stage.put(item)
    await turns()
    now = asyncio.get_running_loop().time() + 100
    called, waiting = stage.deliveries["a"].thread_wait_s(now), stage.deliveries["d"].thread_wait_s(now)
    assert called < 50
    assert waiting >= 100
    texts.error = ValueError("bad")
    texts.gate.set()
    await turns(50)
    now = asyncio.get_running_loop().time() + 100
    assert stage.deliveries["d"].thread_wait_s(now) < 50


async def test_a_plain_function_runs_in_a_worker_thread(start: Start) -> None:
    """One thread for the call of the whole group."""
    threads: list[str] = []

    class Plain(BatchWorkflow[NoParams, str, str], ids_only=True):
        group_size = 3
        execute_flow = None

        def execute_many(self, items: list[str]) -> list[str]:
            threads.append(threading.current_thread().name)
            return [item.upper() for item in items]

    stage = start(Plain())
    assert await asyncio.gather(*(stage.put(item) for item in "abc")) == ["A", "B", "C"]
    assert len(threads) == 1
    assert threads[0].startswith("batchflow-plain-")


# Leases


class Suspended:
    """A lease that has ended while the items waited."""

    def __init__(self) -> None:
        self.losses = 0
        self.asked = 0

    def may_have_expired(self, losses: int) -> bool:
        return losses != self.losses

    async def holds(self, losses: int) -> bool:
        self.asked += 1
        return losses == self.losses


async def test_items_whose_lease_has_ended_are_given_up_and_not_called(start: Start) -> None:
    """Another worker may have them: only those that were claimed since are in the call."""
    texts, lease = Texts(), Suspended()
    texts.gate.set()
    stage = start(texts, lease)
    a, b = stage.put("a"), stage.put("b")
    await turns()
    lease.losses += 1
    c = stage.put("c")
    found = await asyncio.gather(a, b, c, return_exceptions=True)
    assert [type(it) for it in found[:2]] == [LostLease, LostLease]
    assert found[2] == "C"
    assert texts.calls == [["c"]]
    assert lease.asked == 2


# Everything at once


class Random(BatchWorkflow[NoParams, str, str], ids_only=True):
    """Its calls take some turns of the event loop, fail in all ways, and may swallow their cancellation."""

    group_size = 5
    group_wait: ClassVar[Duration] = "1h"
    group_parallelism = 2
    execute_flow = None

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sizes: list[int] = []

    async def execute_many(self, items: list[str]) -> Any:
        self.sizes.append(len(items))
        for _ in range(self.chance.randrange(10)):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if self.chance.random() < 0.5:
                    raise
        outcomes: list[Any] = [item.upper() if self.chance.random() < 0.9 else ValueError(item) for item in items]
        draw = self.chance.random()
        if draw < 0.4:
            raise self.chance.choice([ValueError("bad"), RateLimited(1), TimeoutError(), asyncio.CancelledError()])
        return outcomes if draw < 0.9 else outcomes[1:]


@pytest.mark.parametrize("seed", range(10))
async def test_each_item_has_one_outcome_whatever_happens(start: Start, seed: int) -> None:
    """Items join and leave at random: none waits for ever, no group is too large, and nothing is left in the end."""
    chance = random.Random(seed)
    stage = start(workflow := Random(chance))
    tasks: dict[str, asyncio.Task[Any]] = {}
    for number in range(200):
        tasks[f"item-{number}"] = stage.put(f"item-{number}", f"bat_{chance.randrange(3)}")
        await turns(chance.randrange(4))
        if chance.random() < 0.2:
            tasks[chance.choice(list(tasks))].cancel()
        if chance.random() < 0.1:
            stage.groups.call_all()
    while not all(task.done() for task in tasks.values()):
        stage.groups.call_all()
        await turns()
    await turns(100)
    assert stage.is_empty
    assert max(workflow.sizes) <= 5
    for item, task in tasks.items():
        if not task.cancelled() and task.exception() is None:
            assert task.result() == item.upper()
