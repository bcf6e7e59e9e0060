"""An app of a user's in a test environment: runs, batches, time, and that everything is put back."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_type

import pytest

from batchflow import Batchflow, QStash, WorkflowContext
from batchflow.batch.status import BatchSummary
from batchflow.errors import ConfigurationError
from batchflow.qstash.engine import QStashEngine
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import BatchRecord, Environment, FlowEnv, ManualClock, RunRecord, StillWaiting
from tests.testing.onboarding import NewUser, Programs


def state_of(app: Batchflow) -> Sequence[object]:
    engine = app.engine
    return [engine.store, engine.step_override, engine.caller, engine.loop, app.worker, type(engine.new_id("run"))]


async def test_a_run_is_driven_to_its_end_in_virtual_time(flow_env: FlowEnv, programs: Programs) -> None:
    """Days pass, and the result and the names of the steps are there."""
    async with flow_env(programs.flow) as env:
        begun = env.now
        env.answer_call("ask", body={"active": True})
        run = await env.run(programs.onboarding, NewUser(email="a@b.c"))
        assert env.now - begun == timedelta(days=3)
    assert run.result == "welcomed"
    assert run.steps == ["send-welcome", "three-days", "ask", "send-reminder"]
    assert (run.state, run.payload) == ("completed", {"email": "a@b.c"})


async def test_types_are_inferred(flow_env: FlowEnv, programs: Programs) -> None:
    """The record of a run knows the result of the function, that of a batch the result of an item."""
    async with flow_env(programs.flow) as env:
        run = await env.run(programs.counting, "one two three", label="words")
        batch = await env.run(programs.greet, ids=["u1"])
        assert_type(run, RunRecord[int])
        assert_type(run.result, int)
        assert_type(batch, BatchRecord[str])
        assert_type(batch.summary, BatchSummary)
        assert_type(batch.results, dict[str, str])
    assert (run.result, batch.results) == (3, {"u1": "U1"})


async def test_a_batch_is_driven_to_its_end(flow_env: FlowEnv, programs: Programs) -> None:
    """With its summary, its results, and its items as runs."""
    async with flow_env(programs.flow) as env:
        batch = await env.run(programs.greet)
        items = [run for run in env.runs if run.batch == batch.id]
    batch.assert_completed()
    assert batch.summary.counts.succeeded == 30
    assert batch.results["u7"] == "U7"
    assert [items[0].item, items[0].steps] == ["u0", ["greet:process-item"]]
    assert len(items) == 30


async def test_every_step_is_recorded(flow_env: FlowEnv, programs: Programs) -> None:
    """With its input, its output, its attempt and the virtual time."""
    async with flow_env(programs.flow, start=datetime(2030, 1, 1, tzinfo=UTC)) as env:
        env.answer_call("ask", 200, {"active": True})
        env.fail("send-reminder", ConnectionError("away"))
        run = await env.run(programs.onboarding, NewUser(email="a@b.c"))
    welcome, failed, again = run.step("send-welcome"), *[it for it in run.history if it.name == "send-reminder"]
    assert (welcome.args, welcome.kwargs, welcome.output) == (("a@b.c", "welcome"), {}, "welcome to a@b.c")
    assert (welcome.kind, welcome.state, welcome.at) == ("run", "done", datetime(2030, 1, 1, tzinfo=UTC))
    assert (failed.state, failed.error, failed.attempt) == ("failed", "ConnectionError: away", 1)
    assert (again.state, again.kwargs, again.attempt) == ("done", {"text": "reminder"}, 2)
    assert again.at - failed.at >= timedelta(seconds=30)
    asked = run.step("ask")
    assert (asked.kind, asked.args, asked.output.status) == ("call", ("https://api.example.com/active",), 200)
    assert asked.kwargs["body"] == b'{"email":"a@b.c"}'
    assert [record.name for record in env.steps] == [record.name for record in run.history]


async def test_trigger_delivers_nothing(flow_env: FlowEnv, programs: Programs) -> None:
    """Until the app is driven."""
    async with flow_env(programs.flow) as env:
        run = await env.trigger(programs.counting, "one")
        assert (run.state, run.steps) == ("waiting", [])
        await env.drive()
        assert run.result == 1


async def test_advance_delivers_what_is_due_up_to_then(flow_env: FlowEnv, programs: Programs) -> None:
    """And the clock stands exactly there; an event that comes in time is taken."""
    async with flow_env(programs.flow) as env:
        begun = env.now
        run = await env.trigger(programs.approval, "x")
        await env.advance("0s")
        assert (run.state, run.journal["approve"].state) == ("waiting", "pending")
        await env.advance("6d")
        assert env.now - begun == timedelta(days=6)
        assert await env.notify("approved:x", "yes") == [run.id]
        await env.drive(until=env.now + timedelta(seconds=1))
        assert run.result == "yes"
        late = await env.run(programs.approval, "y")
        assert late.result == "too late"


async def test_an_event_can_be_for_one_run(flow_env: FlowEnv, programs: Programs) -> None:
    """Others that wait for it do not get it."""
    async with flow_env(programs.flow) as env:
        first, second = await env.trigger(programs.approval, "x"), await env.trigger(programs.approval, "x")
        await env.advance("0s")
        await env.notify("approved:x", "yes", second)
        await env.drive()
        assert (first.result, second.result) == ("too late", "yes")


async def test_children_are_runs_too(flow_env: FlowEnv, programs: Programs) -> None:
    """And the step that invoked one has its payload as input."""
    async with flow_env(programs.flow) as env:
        run = await env.trigger(programs.parent, "x")
        await env.advance("0s")
        await env.notify("approved:x", "yes")
        await env.drive()
        assert run.result == "yes"
        assert [(it.function, it.result) for it in env.runs] == [("/parent", "yes"), ("/approval", "yes")]
        assert (run.step("child").args, run.step("child").output) == (("x",), "yes")


async def test_always_replay_suspends_after_every_step(flow_env: FlowEnv, programs: Programs) -> None:
    """The result is the same, and so are the executions."""
    settings = programs.flow.settings.always_replay
    async with flow_env(programs.flow, always_replay=True) as env:
        run = await env.run(programs.counting, "one two")
        env.assert_ran("count", times=1)
        assert run.result == 2
    assert programs.flow.settings.always_replay is settings


@pytest.mark.parametrize("kind", ["url", "factory"])
async def test_a_store_can_be_given(flow_env: FlowEnv, programs: Programs, tmp_path: Path, kind: str) -> None:
    """By its URL, or by what makes it of the test's clock; it is closed at the end."""
    path = tmp_path / "test.db"
    url = f"sqlite:///{path}"
    async with flow_env(
        programs.flow, store=url if kind == "url" else lambda clock: SqliteStore(str(path), clock=clock)
    ) as env:
        assert (await env.run(programs.counting, "one two")).result == 2
    assert path.stat().st_size > 0
    assert not Path(f"{path}-wal").exists()


async def test_a_store_made_by_hand_can_be_given(flow_env: FlowEnv, programs: Programs) -> None:
    """Together with the clock it was made with."""
    clock = ManualClock()
    async with flow_env(programs.flow, store=SqliteStore(":memory:", clock=clock), start=clock) as env:
        assert env.clock is clock
        assert (await env.run(programs.approval, "x")).result == "too late"


async def test_everything_is_put_back(flow_env: FlowEnv, programs: Programs) -> None:
    """Store, clock, stand-ins, worker: the app is as its module made it."""
    before = state_of(programs.flow)
    async with flow_env(programs.flow) as env:
        assert env.app.engine.store is not before[0]
        assert programs.flow.engine.now() == env.clock.now()
        await env.run(programs.counting, "one")
    assert state_of(programs.flow) == before
    assert programs.flow.engine.now() > env.clock.now()
    assert not Path("never-made.db").exists()


async def test_nothing_of_a_qstash_account_is_known_in_the_environment(
    flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions that a test adds have that of the test too, whatever account they name; afterwards all is as before."""
    monkeypatch.setenv("APP_URL", "https://app.example.com/")
    flow = Batchflow(QStash(url="https://qstash.invalid", token="not-a-token", verify=False))
    engine = flow.engine
    assert isinstance(engine, QStashEngine)

    async def hello(ctx: WorkflowContext[str]) -> str:
        return (await ctx.create_webhook("hook")).url

    before = flow.serve("/before", base_url="https://other.example.com")(hello)
    own = engine.directory.app, engine.relay_schedule.cron, engine.directory.url_of("/before")
    async with flow_env(flow) as env:
        client = QStash(url="https://another.invalid", token="another-token")
        after = flow.serve("/after", qstash_client=client, receiver=None)(hello)
        for served in (before, after):
            assert (await env.run(served, "x")).result.startswith("https://qstash.test/")
        assert [it.url for it in engine.directory.rests] == ["https://qstash.test"]
    assert (engine.directory.app, engine.relay_schedule.cron, engine.directory.url_of("/before")) == own
    assert engine.directory.url_of("/after") == "https://app.example.com/after"
    assert [it.url for it in engine.directory.rests] == ["https://qstash.invalid", "https://another.invalid"]


async def test_everything_is_put_back_after_an_exception(flow_env: FlowEnv, programs: Programs) -> None:
    """Which comes out as it is, even where something arranged was never used."""
    before = state_of(programs.flow)
    with pytest.raises(ZeroDivisionError):
        async with flow_env(programs.flow) as env:
            env.answer("no such step", 1)
            raise ZeroDivisionError
    assert state_of(programs.flow) == before


async def test_everything_is_put_back_after_a_cancellation(flow_env: FlowEnv) -> None:
    """A test that takes too long leaves nothing under way."""
    hanging = Batchflow("sqlite://")
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @hanging.serve("/hanging")
    async def hangs(ctx: WorkflowContext[None]) -> None:
        await ctx.run("hang", hang)

    async def test() -> None:
        async with flow_env(hanging) as env:
            await env.run(hangs, None)

    task = asyncio.ensure_future(test())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert hanging.engine.loop is None


async def test_no_state_is_shared_between_environments(flow_env: FlowEnv, programs: Programs) -> None:
    """Each begins empty, at the same time, and makes the same ids."""
    ids: list[str] = []
    for _ in range(2):
        async with flow_env(programs.flow) as env:
            assert env.runs == []
            ids.append((await env.run(programs.counting, "one")).id)
    assert ids[0] == ids[1]


def test_threads_end(programs: Programs) -> None:
    """None of the store's is left when the environment is."""

    async def test() -> None:
        async with Environment(programs.flow) as env:
            await env.run(programs.greet)

    before = set(threading.enumerate())
    asyncio.run(test())
    # Those of AnyIO end by themselves, a moment after the event loop that had them.
    names = [it.name for it in set(threading.enumerate()) - before]
    assert [it for it in names if it != "AnyIO worker thread"] == []


async def test_a_lifespan_in_the_environment_starts_no_worker(flow_env: FlowEnv, programs: Programs) -> None:
    """So that a test can call the app over HTTP as well; its end leaves the state where it is."""
    async with flow_env(programs.flow) as env:
        async with programs.flow.lifespan():
            run = await env.trigger(programs.counting, "one")
        await env.drive()
        assert run.result == 1


async def test_a_running_app_is_refused(flow_env: FlowEnv) -> None:
    """In one sentence, and it goes on running."""
    running = Batchflow("sqlite://", worker=False)
    async with running:
        with pytest.raises(ConfigurationError) as caught:
            async with flow_env(running):
                pass
        assert running.engine.loop is not None
    assert "the app is running already" in str(caught.value)


async def test_an_environment_that_is_not_entered_says_so(flow_env: FlowEnv, programs: Programs) -> None:
    """Instead of using the app's own store."""
    with pytest.raises(ConfigurationError) as caught:
        await flow_env(programs.flow).run(programs.counting, "one")
    assert "the test environment is not open" in str(caught.value)


async def test_an_environment_that_is_not_left_is_an_error(programs: Programs) -> None:
    """At the end of the test; the app is put back all the same."""
    before = state_of(programs.flow)
    made = FlowEnv()
    env = made(programs.flow)
    await env.__aenter__()
    store = programs.flow.engine.store
    with pytest.raises(AssertionError, match=r"^a test environment was entered and not left; write 'async with"):
        made.close()
    assert state_of(programs.flow) == before
    made.close()
    await store.close()


async def test_what_never_comes_to_rest_is_told(flow_env: FlowEnv) -> None:
    """With all that happened until then."""
    restless = Batchflow("sqlite://")

    @restless.serve("/restless")
    async def naps(ctx: WorkflowContext[None]) -> None:
        for number in range(1_000):
            await ctx.sleep(f"nap {number}", "1s")

    async with flow_env(restless, rounds=10) as env:
        with pytest.raises(
            StillWaiting, match=r"(?s)^not at rest after 10 rounds and .*\n    nap 0 +sleep  done +\+1s"
        ):
            await env.run(naps, None)
