"""Faults that a workflow has to stand: crashes, double and late deliveries, another order."""

from datetime import timedelta

import pytest

from batchflow.errors import ConfigurationError
from batchflow.testing import FlowEnv, Unused
from tests.testing.onboarding import OUTBOX, OWN, NewUser, Programs

STEPS = ["send-welcome", "three-days", "ask", "send-reminder"]
USER = NewUser(email="a@b.c")


@pytest.mark.parametrize("always_replay", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 4, *STEPS])
async def test_a_crash_after_a_step_repeats_nothing(
    flow_env: FlowEnv, programs: Programs, step: int | str, always_replay: bool
) -> None:
    """Wherever it happens, by number or by name; the run goes on in another process."""
    async with flow_env(programs.flow, always_replay=always_replay) as env:
        env.crash_after(step)
        env.answer_call("ask", 200)
        run = await env.run(programs.onboarding, USER)
        env.assert_steps(run, STEPS)
        for name in STEPS:
            env.assert_ran(name, times=1)
    assert run.result == "welcomed"


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_before_a_step_is_written_repeats_it(flow_env: FlowEnv, programs: Programs, step: str) -> None:
    """It was executed and nobody knows: at least once means that."""
    async with flow_env(programs.flow) as env:
        env.crash_before(step)
        env.answer_call("ask", 200)
        run = await env.run(programs.onboarding, USER)
        env.assert_ran(step, times=2 if step.startswith("send") else 1)
    assert run.result == "welcomed"
    assert len(OUTBOX) == (3 if step.startswith("send") else 2)


async def test_several_crashes_happen_once_each(flow_env: FlowEnv, programs: Programs) -> None:
    """At the same step too."""
    async with flow_env(programs.flow) as env:
        env.crash_before("count")
        env.crash_before("count")
        env.crash_after("tell")
        run = await env.run(programs.counting, "one two")
        env.assert_ran("count", times=3)
        env.assert_ran("tell", times=1)
    assert run.result == 2


async def test_a_crash_can_be_at_the_last_step_of_an_item(flow_env: FlowEnv, programs: Programs) -> None:
    """Which is written with the item's end; the batch is complete all the same."""
    for crash in ("crash_before", "crash_after"):
        async with flow_env(programs.flow) as env:
            getattr(env, crash)("greet:process-item")
            batch = await env.run(programs.greet)
        batch.assert_completed()
        assert batch.summary.counts.succeeded == 30


async def test_a_second_delivery_repeats_the_step_that_comes_next(flow_env: FlowEnv, programs: Programs) -> None:
    """The first one's result counts for nothing."""
    async with flow_env(programs.flow) as env:
        env.deliver_twice(1)
        run = await env.run(programs.counting, "one two")
        env.assert_ran("count", times=2)
        env.assert_ran("tell", times=1)
    assert run.result == 2


async def test_a_delivery_after_a_wait_can_be_doubled(flow_env: FlowEnv, programs: Programs) -> None:
    """Deliveries count on; calls are none. QStash delivers each step, so also the start of the call."""
    async with flow_env(programs.flow) as env:
        env.deliver_twice(3 if programs is OWN else 4)
        env.answer_call("ask", 200)
        run = await env.run(programs.onboarding, USER)
        env.assert_ran("send-welcome", times=1)
        env.assert_ran("send-reminder", times=2)
    assert run.result == "welcomed"


async def test_items_of_a_batch_stand_a_second_delivery(flow_env: FlowEnv, programs: Programs) -> None:
    """Each succeeds once."""
    async with flow_env(programs.flow) as env:
        for number in range(1, 33):
            env.deliver_twice(number)
        env.reorder(3)
        batch = await env.run(programs.greet)
    assert batch.summary.counts.succeeded == 30


async def test_deliveries_can_be_late(flow_env: FlowEnv, programs: Programs) -> None:
    """By so much more than they are due, each; QStash delivers the start of a run, and after each step."""
    deliveries = 1 if programs is OWN else 3
    async with flow_env(programs.flow) as env:
        begun = env.now
        env.deliver_late("20m")
        run = await env.run(programs.counting, "one")
        assert (run.result, env.now - begun) == (1, timedelta(minutes=20 * deliveries))
        batch = await env.run(programs.greet)
        assert batch.summary.counts.succeeded == 30


async def test_a_late_delivery_is_not_made_later_by_looking(flow_env: FlowEnv, programs: Programs) -> None:
    """However many drives there are until then, it comes once."""
    async with flow_env(programs.flow) as env:
        env.deliver_late("1h")
        run = await env.trigger(programs.counting, "one")
        for _ in range(5):
            await env.advance("10m")
            assert run.steps == []
        await env.advance("10m")
        env.assert_ran("count", times=1)
        await env.drive()
        env.assert_ran("count", times=1)
        assert run.result == 1


async def test_a_late_process_can_die(flow_env: FlowEnv, programs: Programs) -> None:
    """What it held back is taken over by the next one."""
    async with flow_env(programs.flow) as env:
        env.deliver_late("10s")
        env.deliver_twice(1)
        env.crash_before("tell")
        assert (await env.run(programs.counting, "one")).result == 1


async def test_the_order_of_deliveries_is_one_of_chance(flow_env: FlowEnv, programs: Programs) -> None:
    """Another one for another seed, the same one for the same."""
    orders: list[list[str]] = []
    for seed in (1, 1, 2):
        async with flow_env(programs.flow) as env:
            env.reorder(seed)
            for number in range(8):
                await env.trigger(programs.counting, f"one {number}", run_id=f"r{number}")
            await env.drive()
            orders.append([record.run for record in env.steps if record.name == "count"])
            assert len(env.runs) == 8
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


async def test_a_parent_stands_all_of_it(flow_env: FlowEnv, programs: Programs) -> None:
    """Children and events are taken up again after a crash."""
    async with flow_env(programs.flow) as env:
        env.crash_after("child")
        env.crash_after("approve")
        env.reorder(1)
        run = await env.trigger(programs.parent, "x")
        await env.advance("1h")
        await env.notify("approved:x", "yes")
        await env.drive()
        assert run.result == "yes"


@pytest.mark.parametrize(
    ("fault", "argument", "phrase"),
    [
        ("crash_after", 9, "env.crash_after(9) never happened: 2 steps"),
        ("crash_before", "cuont", "env.crash_before('cuont') never happened: 2 steps"),
        ("deliver_twice", 5, "env.deliver_twice(5) never happened: "),
    ],
)
async def test_a_fault_that_never_happened_is_an_error(
    flow_env: FlowEnv, programs: Programs, fault: str, argument: object, phrase: str
) -> None:
    """A test that proves nothing fails."""
    with pytest.raises(Unused) as caught:
        async with flow_env(programs.flow) as env:
            getattr(env, fault)(argument)
            await env.run(programs.counting, "one")
    assert phrase in str(caught.value)


@pytest.mark.parametrize(("fault", "option"), [("crash_after", "step"), ("deliver_twice", "delivery")])
async def test_faults_count_from_one(flow_env: FlowEnv, programs: Programs, fault: str, option: str) -> None:
    """Less is refused at once."""
    async with flow_env(programs.flow) as env:
        with pytest.raises(ConfigurationError, match=f"'{option}' cannot be 0"):
            getattr(env, fault)(0)
        await env.run(programs.approval, "x")
