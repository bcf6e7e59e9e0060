"""The dead letters of functions on QStash, by `flow.dead_letters`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from batchflow import FlowControl, NonRetryable, RetryPolicy, RunFailure, WorkflowContext
from batchflow.core.run import Run
from batchflow.errors import InputError, NotFoundError
from batchflow.qstash import engine
from batchflow.serve.dead_letter_filters import DeadLetterFilter
from batchflow.serve.runs import RunHandle
from tests.qstash.stage import APP_URL, WireStage


class Failing:
    """A function with two steps, of which the second fails while `broken`, and its failure function."""

    def __init__(self, stage: WireStage) -> None:
        self.broken = True
        self.reports = 0
        self.report_fails = False
        self.steps: list[str] = []

        async def report(failure: RunFailure[str]) -> str:
            self.reports += 1
            if self.report_fails:
                raise NonRetryable("no report")
            return f"reported {failure.payload}"

        @stage.flow.serve("/charge", retries=0, failure_function=report)
        async def charge(ctx: WorkflowContext[str]) -> str:
            async def price() -> int:
                self.steps.append("price")
                return 7

            async def pay() -> str:
                self.steps.append("pay")
                if self.broken:
                    raise ConnectionError(f"the bank is away for {ctx.payload}")
                return "paid"

            return (
                f"{await ctx.run('pay', pay)} {await ctx.run('price', price)}"
                if ctx.payload == "bob"
                else (f"{await ctx.run('price', price)} {await ctx.run('pay', pay)}")
            )

        self.function = charge


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param) as stage:
        yield stage


async def failed(stage: WireStage, count: int = 1) -> tuple[Failing, list[str]]:
    """A function of which `count` runs have failed, and their ids, the latest first."""
    failing = Failing(stage)
    await stage.open()
    runs: list[RunHandle[str]] = []
    for number in range(count):
        runs.append(await failing.function.trigger(f"ada{number}", label="eu", headers={"x-tenant": "acme"}))
        await stage.drive(ms=60_000)
    return failing, [run.id for run in reversed(runs)]


async def ended(stage: WireStage, id: str) -> Run:
    await stage.drive()
    return await stage.flow.run(id).status()


async def test_a_failed_run_is_a_dead_letter_with_its_payload_and_its_steps(stage: WireStage) -> None:
    _, (id,) = await failed(stage)
    letters = stage.flow.dead_letters
    (listed,) = (await letters.list()).letters
    assert (listed.id, listed.message.destination, listed.label, listed.status) == (id, "/charge", "eu", 500)
    assert "the bank is away" in listed.response
    letter = await letters.get(id)
    assert (letter.message.body, dict(letter.message.headers)) == ('"ada0"', {"x-tenant": "acme"})
    assert [(step.name, step.state) for step in letter.journal][:1] == [("price", "done")]
    assert letter.failure is not None
    assert (letter.failure.state, letter.failure.result) == ("succeeded", '"reported ada0"')
    with pytest.raises(NotFoundError, match="there is no dead letter"):
        await letters.get("run_unknown")


async def test_dead_letters_are_listed_page_by_page_and_by_filters(stage: WireStage) -> None:
    _, ids = await failed(stage, 3)
    letters = stage.flow.dead_letters
    first = await letters.list(limit=2)
    rest = await letters.list(limit=2, cursor=first.next_cursor)
    assert [it.id for it in (*first.letters, *rest.letters)] == ids
    assert rest.next_cursor is None
    filters: list[tuple[DeadLetterFilter, int]] = [
        ({"workflow": "/charge", "label": "eu", "status": 500}, 3),
        ({"url": f"{APP_URL}/charge"}, 3),
        ({"run_id": ids[0]}, 1),
        ({"status": 504}, 0),
        ({"workflow": "charge"}, 0),
        ({"batch_id": "bat_x"}, 0),
        ({"label": "us"}, 0),
    ]
    for filter, count in filters:
        assert len((await letters.list(**filter)).letters) == count, filter
    (group,) = await letters.groups()
    assert (group.size, group.type) == (3, "ConnectionError")
    assert len((await letters.list(group=group.fingerprint)).letters) == 3


async def test_a_resumed_run_goes_on_from_where_it_failed_under_a_new_id(stage: WireStage) -> None:
    failing, (id,) = await failed(stage)
    failing.broken = False
    result = await stage.flow.dead_letters.resume(id)
    (new,) = result.run_ids
    assert (result.count, result.ids, new == id) == (1, [id], False)
    assert (await ended(stage, new)).result == '"7 paid"'
    assert failing.steps == ["price", "pay", "pay"]
    assert (await stage.flow.dead_letters.resume(id)).refused == [id]


async def test_a_run_is_resumed_again_and_again(stage: WireStage) -> None:
    failing, (id,) = await failed(stage)
    for _ in range(2):
        (id,) = (await stage.flow.dead_letters.resume(id)).run_ids
        assert (await ended(stage, id)).state == "failed"
    failing.broken = False
    (id,) = (await stage.flow.dead_letters.resume(all=True)).run_ids
    assert (await ended(stage, id)).result == '"7 paid"'
    assert failing.steps == ["price", "pay", "pay", "pay", "pay"]


async def test_a_failed_branch_of_a_resumed_run_is_executed_again(stage: WireStage) -> None:
    calls: list[str] = []

    @stage.flow.serve("/branches", retries=0)
    async def branches(ctx: WorkflowContext[None]) -> list[str]:
        async def step(name: str, pause: str) -> str:
            async def act() -> str:
                calls.append(name)
                if name == "slow" and calls.count("slow") == 1:
                    raise ConnectionError("down")
                return name

            await ctx.sleep(f"{name} sleeps", pause)
            return await ctx.run(name, act)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step(*it)) for it in (("slow", "1h"), ("fast", "1m"))]
        return [it.result() for it in tasks]

    await stage.open()
    run = await branches.trigger(None)
    assert (await ended(stage, run.id)).state == "failed"
    (new,) = (await stage.flow.dead_letters.resume(run.id)).run_ids
    assert (await ended(stage, new)).result == '["slow","fast"]'
    assert calls == ["fast", "slow", "slow"]


async def test_a_restarted_run_begins_anew_with_other_retries_and_limits(stage: WireStage) -> None:
    failing, (id,) = await failed(stage)
    limits = FlowControl(key="slow", parallelism=1)
    result = await stage.flow.dead_letters.restart(id, retries=1, flow_control=limits)
    run = await ended(stage, result.run_ids[0])
    assert failing.steps == ["price", "pay", "price", "pay", "pay"]
    assert (run.state, run.flow_key) == ("failed", "slow")
    with pytest.raises(InputError, match="QStash keeps a flow key with its limits only"):
        await stage.flow.dead_letters.restart(all=True, flow_control=FlowControl(key="slow"))


async def test_a_failure_function_that_has_failed_is_called_again(stage: WireStage) -> None:
    failing = Failing(stage)
    failing.report_fails = True
    await stage.open()
    run = await failing.function.trigger("ada")
    await stage.drive()
    letters = stage.flow.dead_letters
    failing.report_fails = False
    before = failing.reports
    assert (await letters.callback(run.id)).ids == [run.id]
    await stage.drive()
    assert failing.reports == before + 1
    assert (await letters.callback(run.id)).refused == [run.id]


async def test_deleting_dead_letters_leaves_those_of_other_apps(stage: WireStage) -> None:
    _, ids = await failed(stage, 2)
    async with stage.console() as http:
        await http.post("/v2/trigger/https://app.example.com/other", headers={"upstash-retries": "0"})
        await stage.drive()
        assert (await stage.flow.dead_letters.delete(all=True)).ids == ids
        assert not (await stage.flow.dead_letters.list()).letters
        (other,) = (await http.get("/v2/workflows/dlq")).json()["messages"]
    assert other["workflowUrl"].endswith("/other")


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)
async def test_a_canary_that_fails_again_leaves_the_others_alone(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FIRST_POLL_S", 0.01)
    _, ids = await failed(stage, 3)
    resuming = asyncio.ensure_future(stage.flow.dead_letters.resume(all=True, canary=1))
    while not resuming.done():
        await stage.drive()
        await asyncio.sleep(0)
    result = await resuming
    assert (result.ids, result.failed) == (ids[:1], ids[:1])
    assert ids[1] in [it.id for it in (await stage.flow.dead_letters.list()).letters]


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)
async def test_the_routes_of_dead_letters_are_those_of_qstash(stage: WireStage) -> None:
    _, (second, first) = await failed(stage, 2)
    async with stage.operator() as http:
        page = (await http.get("/dlq", params={"limit": 1})).json()
        assert [it["dlqId"] for it in page["deadLetters"]] == [second]
        assert (await http.get("/dlq", params={"cursor": page["nextCursor"]})).json()["deadLetters"][0][
            "dlqId"
        ] == first
        assert (await http.get(f"/dlq/{first}")).json()["body"] == "ada0"
        assert (await http.get("/dlq/unknown")).status_code == 404
        assert (await http.get("/dlq/groups")).json()["groups"][0]["size"] == 2
        resumed = (await http.post("/dlq/resume", json={"dlqIds": [first]})).json()
        assert (resumed["count"], len(resumed["runIds"])) == (1, 1)
        assert (await http.delete(f"/dlq/{second}")).status_code == 200


async def test_failed_items_of_batches_are_listed_after_failed_runs_and_resumed_in_qstash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(batches=True) as stage:
        failing = Failing(stage)

        @stage.flow.batch(retry=RetryPolicy.none())
        async def greet(name: str) -> str:
            if failing.broken:
                raise ConnectionError("down")
            return f"hello {name}"

        await stage.open()
        run = await failing.function.trigger("ada")
        batch = await greet.trigger(ids=["ada"])
        await stage.drive()
        letters = stage.flow.dead_letters
        first = await letters.list(limit=1)
        rest = await letters.list(limit=5, cursor=first.next_cursor)
        assert ([it.id for it in first.letters], [it.item for it in rest.letters]) == ([run.id], ["ada"])
        assert [it.item for it in (await letters.list(workflow="greet")).letters] == ["ada"]
        failing.broken = False
        result = await letters.resume(all=True)
        assert (result.count, result.ids[1:]) == (2, result.run_ids[1:])
        await stage.drive()
        assert (await stage.flow.run(result.run_ids[0]).status()).state == "completed"
        assert (await batch.status()).counts.succeeded == 1
