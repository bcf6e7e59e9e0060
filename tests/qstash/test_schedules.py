"""The schedules of functions on QStash, by `flow.schedules` and `@flow.serve(schedule=…)`."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI

from batchflow import Batchflow, Schedule, WorkflowContext
from batchflow.core.schedule import Cron
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import ConfigurationError, InputError, NotFoundError
from batchflow.serve.functions import ServedFunction
from tests.qstash.batch_programs import Greet, nothing
from tests.qstash.stage import APP_URL, WireStage

HOUR = 3_600_000


class Reports:
    """A function that notes its payloads and the times for which it was scheduled, and then sleeps."""

    def __init__(self) -> None:
        self.payloads: list[str] = []
        self.scheduled: list[str] = []
        self.schedules: list[str] = []
        self.sleep = "1s"

    def serve(self, flow: Batchflow, schedule: Schedule | str | None = None) -> ServedFunction[str, None]:
        @flow.serve("/report", schedule=schedule)
        async def report(ctx: WorkflowContext[str]) -> None:
            async def note() -> None:
                self.payloads.append(ctx.payload)
                self.scheduled.append(ctx.headers["Batchflow-Scheduled-At"])
                self.schedules.append(ctx.headers.get("Upstash-Schedule-Id", ""))

            await ctx.run("note", note)
            await ctx.sleep("a while", self.sleep)

        return report


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param) as stage:
        yield stage


only_sqlite = pytest.mark.parametrize("stage", ["sqlite"], indirect=True)


async def test_a_declared_schedule_starts_a_run_at_each_of_its_times_in_its_time_zone(stage: WireStage) -> None:
    reports = Reports()
    declared = Schedule("0 3 * * *", timezone="Europe/Berlin", payload="daily", headers={"x-by": "cron"})
    reports.serve(stage.flow, declared)
    await stage.open()
    (status,) = await stage.flow.schedules.list()
    schedule = status.schedule
    assert (status.id, schedule.target, schedule.cron) == ("report", "report", Cron("0 3 * * *", "Europe/Berlin"))
    assert (schedule.payload, schedule.overlap, schedule.declared) == ('"daily"', "skip", True)
    assert dict(schedule.headers) == {"x-by": "cron"}
    await stage.drive(ms=48 * HOUR)
    assert reports.payloads == ["daily", "daily"]
    assert [it[11:] for it in reports.scheduled] == ["03:00:00+01:00"] * 2
    assert reports.schedules == ["report", "report"]
    runs = (await stage.flow.runs(label="report")).runs
    assert [(run.state, run.destination) for run in runs] == [("completed", "/report")] * 2
    status = await stage.flow.schedules.get("report")
    assert status.last_at is not None
    assert datetime.fromtimestamp(status.last_at / 1000, UTC).hour == 2


@only_sqlite
async def test_a_deploy_changes_declared_schedules_keeps_their_pause_and_removes_old_ones(stage: WireStage) -> None:
    Reports().serve(stage.flow, Schedule("0 3 * * *", payload="old"))
    await stage.open()
    schedules = stage.flow.schedules
    await schedules.pause("report")
    await schedules.create("/report", "0 4 * * *", id="by-hand", payload="by hand")
    changed = stage.again()
    Reports().serve(changed, Schedule("0 5 * * *", payload="new"))
    async with changed:
        status = await changed.schedules.get("report")
        assert (status.schedule.cron.expression, status.schedule.payload, status.paused) == ("0 5 * * *", '"new"', True)
    without = stage.again()
    Reports().serve(without)
    async with without:
        assert [it.id for it in await without.schedules.list()] == ["by-hand"]


async def test_a_fire_is_skipped_while_the_run_of_the_previous_one_goes_on(stage: WireStage) -> None:
    reports = Reports()
    reports.sleep = "90m"
    reports.serve(stage.flow)
    await stage.open()
    await stage.flow.schedules.create("/report", "0 * * * *", id="skipping", payload="skip")
    await stage.flow.schedules.create("/report", "0 * * * *", id="allowing", payload="allow", overlap="allow")
    await stage.drive(ms=4 * HOUR)
    assert (reports.payloads.count("skip"), reports.payloads.count("allow")) == (2, 4)


async def test_a_fire_that_qstash_delivers_twice_starts_one_run(stage: WireStage) -> None:
    reports, lost = Reports(), list[str]()

    def lose(request: PushRequest, response: PushResponse) -> PushResponse:
        if not lost and any(name.lower() == "upstash-schedule-id" for name, _ in request.headers):
            lost.append(request.url)
            return PushResponse(503, (), b"")
        return response

    stage.client.after = lose
    reports.serve(stage.flow, Schedule("0 3 * * *", payload="daily", overlap="allow"))
    await stage.open()
    await stage.drive(ms=24 * HOUR)
    assert lost
    assert reports.payloads == ["daily"]


@only_sqlite
async def test_schedules_are_paused_resumed_fired_and_deleted(stage: WireStage) -> None:
    reports = Reports()
    report = reports.serve(stage.flow)
    await stage.open()
    schedules = stage.flow.schedules
    made = await schedules.create(report, "@daily", payload="made", label="nightly")
    assert (await schedules.pause(made.id)).paused
    await stage.drive(ms=48 * HOUR)
    assert not reports.payloads
    fired = await schedules.trigger(made.id)
    assert fired.outcome == "fired"
    assert fired.schedule is not None
    await stage.drive(ms=60_000)
    assert reports.payloads == ["made"]
    assert fired.schedule.last_id is not None
    run = await stage.flow.run(fired.schedule.last_id).status()
    assert (run.state, run.label) == ("completed", "nightly")
    assert not (await schedules.resume(made.id)).paused
    await stage.drive(ms=24 * HOUR)
    assert reports.payloads == ["made", "made"]
    await schedules.delete(made.id)
    with pytest.raises(NotFoundError, match="there is no schedule"):
        await schedules.get(made.id)


@only_sqlite
async def test_schedules_of_other_urls_are_neither_seen_nor_changed(stage: WireStage) -> None:
    report = Reports().serve(stage.flow)
    await stage.open()
    schedules = stage.flow.schedules
    async with stage.console() as http:
        headers = {"upstash-cron": "* * * * *", "upstash-schedule-id": "other"}
        await http.post("/v2/schedules/https://other.example.com/x", headers=headers)
        assert not await schedules.list()
        for command in (schedules.pause, schedules.delete):
            with pytest.raises(NotFoundError):
                await command("other")
        with pytest.raises(InputError, match="QStash has a schedule of this id for another URL"):
            await schedules.create(report, "0 3 * * *", id="other", payload="x")
        assert (await http.get("/v2/schedules/other")).json()["isPaused"] is False


@only_sqlite
async def test_a_schedule_that_somebody_else_makes_for_a_function_starts_runs_too(stage: WireStage) -> None:
    reports = Reports()
    reports.serve(stage.flow)
    await stage.open()
    async with stage.console() as http:
        headers = {"upstash-cron": "0 3 * * *", "upstash-schedule-id": "console"}
        await http.post(f"/v2/schedules/{APP_URL}/report", headers=headers, content='"by the console"')
    await stage.drive(ms=24 * HOUR)
    assert reports.payloads == ["by the console"]
    assert [it.id for it in await stage.flow.schedules.list()] == ["console"]


@only_sqlite
async def test_a_fire_that_qstash_has_not_signed_starts_nothing(stage: WireStage) -> None:
    reports = Reports()
    reports.serve(stage.flow)
    await stage.open()
    async with stage.operator() as http:
        answer = await http.post("/report", json="forged", headers={"upstash-schedule-id": "report"})
    assert answer.status_code == 401
    await stage.drive()
    assert not reports.payloads


@only_sqlite
async def test_what_qstash_cannot_do_with_a_schedule_is_refused(stage: WireStage) -> None:
    with pytest.raises(ConfigurationError, match="write 'skip' or 'allow'"):
        Reports().serve(stage.flow, Schedule("0 3 * * *", payload="x", overlap="queue"))


@only_sqlite
async def test_an_app_starts_although_its_schedules_cannot_be_put_into_qstash(stage: WireStage) -> None:
    class Away(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("away")

    stage.transport = Away()
    flow = stage.again()
    Reports().serve(flow, Schedule("0 3 * * *", payload="x"))
    async with flow:
        assert flow.served


async def test_schedules_of_batches_are_in_the_store_of_the_app_and_beside_those_of_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    greeted: list[str] = []
    async with WireStage(batches=True) as stage:
        reports = Reports()
        reports.serve(stage.flow, Schedule("0 3 * * *", payload="daily"))

        @stage.flow.batch(ids=["ada"])
        async def greet(name: str) -> None:
            greeted.append(name)

        await stage.open()
        made = await stage.flow.schedules.create(greet, "0 4 * * *", id="greetings")
        assert [it.id for it in await stage.flow.schedules.list()] == ["greetings", "report"]
        assert (await stage.flow.schedules.trigger(made.id)).outcome == "fired"
        await stage.drive(ms=120_000)
        assert (greeted, reports.payloads) == (["ada"], [])
        await stage.flow.schedules.delete(made.id)
        assert [it.id for it in await stage.flow.schedules.list()] == ["report"]


@only_sqlite
async def test_the_routes_of_schedules_are_those_of_qstash(stage: WireStage) -> None:
    Reports().serve(stage.flow, Schedule("0 3 * * *", payload="x"))
    await stage.open()
    async with stage.operator() as http:
        made = await http.post("/schedules", json={"target": "/report", "cron": "0 4 * * *", "payload": "y"})
        assert (made.status_code, made.json()["isServed"]) == (200, True)
        assert len((await http.get("/schedules")).json()["schedules"]) == 2
        assert (await http.post("/schedules/report/pause")).json()["isPaused"] is True
        assert (await http.post("/schedules/report/trigger")).json()["outcome"] == "fired"
        assert (await http.delete("/schedules/report")).status_code == 409
        assert (await http.delete(f"/schedules/{made.json()['scheduleId']}")).status_code == 200
        assert (await http.get("/schedules/unknown")).status_code == 404
        queued = {"target": "/report", "cron": "0 4 * * *", "payload": "y", "overlap": "queue"}
        assert (await http.post("/schedules", json=queued)).status_code == 422


@only_sqlite
async def test_a_start_removes_no_schedule_of_another_app_with_a_function_of_the_same_name(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Reports().serve(stage.flow, Schedule("0 3 * * *", payload="x"))
    await stage.open()
    monkeypatch.setenv("APP_URL", "https://staging.example.com/")
    staging = stage.again()
    Reports().serve(staging)
    async with staging, stage.console() as http:
        (shown,) = (await http.get("/v2/schedules")).json()
    assert shown["destination"] == f"{APP_URL}/report"


@only_sqlite
async def test_an_app_that_does_not_know_its_url_starts_without_its_schedules_and_says_why(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("APP_URL")
    flow = stage.again()
    Reports().serve(flow, Schedule("0 3 * * *", payload="x"))
    async with flow:
        assert flow.served
    assert "Schedules could not be put into QStash" in caplog.text
    assert "report: the public URL of this app is not known" in caplog.text


@only_sqlite
async def test_an_app_whose_start_fails_is_closed_and_can_be_started_again(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if broken:
                raise broken[0]
            return await inner.handle_async_request(request)

    broken: list[BaseException] = [asyncio.CancelledError()]
    inner, stage.transport = stage.transport, Breaking()
    flow = stage.again()
    Reports().serve(flow, Schedule("0 3 * * *", payload="x"))
    with pytest.raises(asyncio.CancelledError):
        await flow.start()
    assert not flow.engine.is_open
    broken.clear()
    async with flow:
        assert [it.id for it in await flow.schedules.list()] == ["report"]


@only_sqlite
async def test_a_schedule_that_qstash_refuses_leaves_the_others_declared(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.open()
    async with stage.console() as http:
        headers = {"upstash-cron": "* * * * *", "upstash-schedule-id": "report"}
        await http.post("/v2/schedules/https://other.example.com/x", headers=headers)
        flow = stage.again()
        Reports().serve(flow, Schedule("0 3 * * *", payload="x"))
        flow.serve("/later", schedule="0 4 * * *")(sleepless)
        async with flow:
            assert [it.schedule.destination for it in await flow.schedules.list()] == ["/later"]
        assert (await http.get("/v2/schedules/report")).json()["destination"] == "https://other.example.com/x"
    assert "report: 'id' cannot be 'report'; name another: QStash has a schedule of this id" in caplog.text


@only_sqlite
async def test_of_two_apps_with_a_schedule_of_one_name_the_later_has_it_and_says_so(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Reports().serve(stage.flow, Schedule("0 3 * * *", payload="x"))
    await stage.open()
    monkeypatch.setenv("APP_URL", "https://preview.example.com/")
    preview = stage.again()
    Reports().serve(preview, Schedule("0 3 * * *", payload="x"))
    assert "calls this app from now on" not in caplog.text
    async with preview:
        assert [it.id for it in await preview.schedules.list()] == ["report"]
    assert "A schedule that called another URL calls this app from now on" in caplog.text
    assert f"{APP_URL}/report" in caplog.text
    assert "https://preview.example.com/report" in caplog.text


@only_sqlite
async def test_an_app_sees_and_changes_no_schedule_of_another_app_with_the_same_routes(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Reports().serve(stage.flow, Schedule("0 3 * * *", payload="x"))
    await stage.open()
    await stage.flow.schedules.create("/report", "0 4 * * *", id="by-hand", payload="by hand")
    monkeypatch.setenv("APP_URL", "https://preview.example.com/")
    preview = stage.again()
    Reports().serve(preview)
    async with preview:
        schedules = preview.schedules
        assert not await schedules.list()
        for command in (schedules.pause, schedules.delete, schedules.trigger):
            with pytest.raises(NotFoundError):
                await command("by-hand")
        with pytest.raises(InputError, match="QStash has a schedule of this id for another URL"):
            await schedules.create("/report", "0 5 * * *", id="by-hand", payload="y")


class Noting(httpx.AsyncBaseTransport):
    """Notes the requests to QStash."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.requests: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.method, request.url.path.partition("batchflow-")[0]))
        return await self.inner.handle_async_request(request)


async def test_a_cold_start_reads_schedules_once_and_makes_none_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage = WireStage(batches=True)
    noting = stage.transport = Noting(stage.transport)

    async def start() -> list[tuple[str, str]]:
        flow = stage.again()
        flow.add(Greet(1, nothing))
        for number in range(3):
            flow.serve(f"/report{number}", schedule="0 3 * * *")(sleepless)
        noting.requests.clear()
        app = FastAPI()
        app.include_router(flow.router)
        async with flow.lifespan(app):
            return [*noting.requests]

    async with stage, stage.console() as http:
        assert [method for method, _ in await start()].count("POST") == 4
        ids = [it["scheduleId"] for it in (await http.get("/v2/schedules")).json()]
        (relay,) = [it for it in ids if it.startswith("batchflow-")]
        await http.patch(f"/v2/schedules/{relay}/pause")
        assert await start() == [("GET", "/v2/schedules"), ("GET", "/v2/schedules/")]
        assert (await http.get(f"/v2/schedules/{relay}")).json()["isPaused"], "the pause of an operator stays"


async def sleepless(ctx: WorkflowContext[None]) -> None:
    """Do nothing."""
