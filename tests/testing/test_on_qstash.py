"""What is particular to an app on QStash in a test environment."""

import asyncio
import json
from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from batchflow import Batchflow, BatchWorkflow, NonRetryable, Page, QStash, RunFailure, Schedule, WorkflowContext
from batchflow.batch.workflow import NoParams
from batchflow.core.call import CallRequest
from batchflow.testing import FlowEnv, Unanswered, Unused
from tests.testing.onboarding import ON_QSTASH, OUTBOX, greet_user, send


def new_app() -> Batchflow:
    """An app whose account nobody has."""
    return Batchflow(
        QStash(
            url="https://qstash.invalid",
            token="not-a-token",
            current_signing_key="sig_1",
            next_signing_key="sig_2",
            store="sqlite:///never-made.db",
        )
    )


class Onboard(BatchWorkflow[NoParams, str, str]):
    """Several durable steps for each user, with months in between."""

    entity = "user"
    name = "onboard"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["ada", "bob"])

    async def process(self, ctx: WorkflowContext[NoParams], item: str, /) -> str:
        await ctx.run("mail", send, item, "welcome")
        await ctx.sleep("wait", "90d")
        answer = await ctx.call("ask", f"https://api.example.com/{item}", retries=1)
        found = await ctx.wait_for_event("answer", f"answer-{item}", timeout="30d", data=str)
        return f"{answer.status} {'nothing' if found.timed_out else found.data}"


async def test_items_of_several_steps_are_driven_over_months(flow_env: FlowEnv) -> None:
    """Steps, sleeps, calls, events and crashes of items are as on the other engines."""
    flow = new_app()
    onboard = flow.add(Onboard())
    async with flow_env(flow) as env:
        begun = env.now
        env.crash_before("mail")
        env.fail_call("https://api.example.com/ada", times=1)
        env.answer_call("ask", 204)
        batch = await env.trigger(onboard)
        await env.advance("95d")
        await env.notify("answer-ada", "yes")
        await env.drive()
        assert env.now - begun == timedelta(
            days=120, minutes=env.now.minute - begun.minute, seconds=env.now.second - begun.second
        )
        items = {run.item: run for run in env.runs}
        env.assert_steps(items["ada"], ["mail", "wait", "ask", "answer"])
    assert batch.results == {"ada": "204 yes", "bob": "204 nothing"}


async def test_an_item_whose_process_has_crashed_goes_on_after_its_lease(flow_env: FlowEnv) -> None:
    """QStash repeats the request, and calls the app again when the lease has ended."""
    async with flow_env(ON_QSTASH.flow) as env:
        begun = env.now
        env.crash_before("greet:process-item")
        batch = await env.run(ON_QSTASH.greet, ids=["ada"])
        env.assert_ran("greet:process-item", times=2)
        assert timedelta(seconds=30) < env.now - begun < timedelta(minutes=1)
    assert batch.results == {"ada": "ADA"}


async def test_a_batch_that_a_function_invokes_is_driven_too(flow_env: FlowEnv) -> None:
    """Its items are runs, and what tells QStash of its end is none."""
    flow = new_app()

    async def greet_all(ctx: WorkflowContext[None]) -> int:
        return (await ctx.invoke("greet all", greet, NoParams())).counts.succeeded

    greet = flow.batch(name="greet", ids=["ada", "bob"])(greet_user)
    greeting = flow.serve("/greeting")(greet_all)
    async with flow_env(flow) as env:
        run = await env.run(greeting, None)
        assert (run.result, run.steps, len(env.runs)) == (2, ["greet all"], 3)


async def test_a_crash_costs_an_attempt_of_a_function(flow_env: FlowEnv) -> None:
    """QStash cannot tell it from a failure: without retries the run fails."""
    flow = new_app()

    @flow.serve("/once", retries=0)
    async def once(ctx: WorkflowContext[None]) -> None:
        await ctx.run("mail", send, "ada", "welcome")

    async with flow_env(flow) as env:
        env.crash_after("mail")
        run = await env.run(once, None)
    assert (run.state, run.steps) == ("failed", ["mail"])


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_each_branch_stands_a_crash(flow_env: FlowEnv, crash: str) -> None:
    """What the others have recorded is not executed again."""
    flow = new_app()

    @flow.serve("/branches", retries=3, retry_delay="1s")
    async def branches(ctx: WorkflowContext[None]) -> list[str]:
        async def branch(name: str) -> str:
            await ctx.sleep(f"sleep-{name}", "1h")
            return await ctx.run(f"mail-{name}", send, name, "hello")

        return list(await asyncio.gather(*(branch(name) for name in "abc")))

    async with flow_env(flow) as env:
        getattr(env, f"crash_{crash}")("mail-b")
        run = await env.run(branches, None)
        for name in "ac":
            env.assert_ran(f"sleep-{name}", times=1)
    assert run.result == ["hello to a", "hello to b", "hello to c"]
    assert [mail.to for mail in OUTBOX].count("b") == (2 if crash == "before" else 1)


async def test_schedules_fire_while_time_passes(flow_env: FlowEnv) -> None:
    """Those of batches and those of functions; they do not keep a drive going."""
    flow = new_app()

    @flow.batch(ids=["ada"], schedule="0 12 * * *", processed_ttl="1h")
    async def daily(id: str) -> str:
        return id

    @flow.serve("/hourly", schedule=Schedule("30 * * * *", payload="x"))
    async def hourly(ctx: WorkflowContext[str]) -> str:
        return ctx.payload

    async with flow_env(flow) as env:
        begun = env.now
        await env.drive()
        assert env.now == begun
        await env.advance("2d")
        functions = [run for run in env.runs if run.function == "/hourly"]
        items = [run for run in env.runs if run.item == "ada"]
        assert ([run.state for run in items], len(functions)) == (["completed"] * 2, 48)
        assert [(run.ended or begun).hour for run in items] == [12, 12]
    assert (daily.name, hourly.endpoint.route) == ("daily", "/hourly")


async def test_failure_functions_and_failure_urls_are_called(flow_env: FlowEnv) -> None:
    """The function is a step that can be answered, the URL a call."""
    flow = new_app()
    told: list[RunFailure[str]] = []
    posted: list[CallRequest] = []

    async def tell(failure: RunFailure[str]) -> str:
        told.append(failure)
        return "told"

    async def fail(ctx: WorkflowContext[str]) -> None:
        raise NonRetryable("no")

    with_function = flow.serve("/with-function", failure_function=tell)(fail)
    with_url = flow.serve("/with-url", failure_url="https://failures.example.com/")(fail)
    async with flow_env(flow) as env:

        def post(request: CallRequest) -> str:
            posted.append(request)
            return ""

        env.answer_call("https://failures.example.com/", 200, post)
        run = await env.run(with_function, "ada")
        assert (run.state, run.error, run.failure and run.failure.result) == ("failed", "NonRetryable: no", '"told"')
        await env.run(with_url, "bob")
    assert [(it.run_id, it.payload, it.error) for it in told] == [(run.id, "ada", "NonRetryable")]
    assert [json.loads(it.body.text)["status"] for it in posted] == [489]


async def test_routes_of_the_app_start_work(flow_env: FlowEnv) -> None:
    """Wherever the test has included its router; QStash calls that of the environment."""
    app = FastAPI(lifespan=ON_QSTASH.flow.lifespan)
    app.include_router(ON_QSTASH.flow.router, prefix="/api")
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with (
        flow_env(ON_QSTASH.flow) as env,
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        for path, body in (("/api/counting", "one two"), ("/api/greet/process-users", {"userIds": ["ada"]})):
            assert (await http.post(path, json=body)).status_code == 202
        await env.drive()
        assert sorted((run.function, run.state) for run in env.runs) == [
            ("/counting", "completed"),
            ("/greet/execute-user", "completed"),
        ]


async def test_strict_and_unused_answers_are_told(flow_env: FlowEnv) -> None:
    """In the same sentences as on the other engines."""
    with pytest.raises(Unused, match="env.answer_call\\('asks', …\\) was never used"):
        async with flow_env(ON_QSTASH.flow, strict=True) as env:
            env.answer_call("asks", 200)
            with pytest.raises(Unanswered, match="step 'count' has no answer"):
                await env.run(ON_QSTASH.counting, "one")
    assert OUTBOX == []


async def test_environments_are_the_same_each_time(flow_env: FlowEnv) -> None:
    """With the same seed: ids, steps and times."""
    tables: list[str] = []
    for _ in range(2):
        async with flow_env(ON_QSTASH.flow, seed=7) as env:
            env.fail("count", ConnectionError, times=2)
            await env.run(ON_QSTASH.counting, "one two")
            await env.run(ON_QSTASH.greet, ids=["u1", "u2", "u3"])
            tables.append(str(env))
    assert tables[0] == tables[1]
