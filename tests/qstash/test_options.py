"""An app on QStash is told what it lacks, and what QStash cannot do for it."""

import re
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from batchflow import Batchflow, FlowControl, QStash, RateLimited, RetryPolicy, WorkflowContext
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import ConfigurationError, InputError, StepFailed
from batchflow.qstash.engine import QStashEngine
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock
from tests.qstash.stage import APP_URL, WireStage

VARIABLES = ("QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, "QSTASH_URL", "APP_URL", "BATCHFLOW_APP_URL", "UPSTASH_WORKFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("missing", VARIABLES)
@pytest.mark.parametrize("url", ["qstash://", None])
def test_each_missing_variable_is_named_with_the_line_to_write(
    environment: pytest.MonkeyPatch, missing: str, url: str | None
) -> None:
    for name in VARIABLES:
        if name != missing:
            environment.setenv(name, "secret-value")
    with pytest.raises(ConfigurationError, match=f"write {missing}=… into the environment") as raised:
        Batchflow(QStash() if url is None else url)
    assert "secret-value" not in str(raised.value)


def test_the_environment_alone_makes_an_app_on_qstash(environment: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        environment.setenv(name, "secret-value")
    environment.setenv("BATCHFLOW_URL", "qstash://")
    flow = Batchflow()
    assert not flow.worker
    assert "secret-value" not in repr(flow.settings)


def test_a_store_object_goes_before_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BATCHFLOW_URL", "qstash://")
    store = SqliteStore(":memory:", clock=ManualClock())
    assert Batchflow(store).engine.store is store


def test_an_address_belongs_into_a_variable_of_its_own(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="write qstash://, and the address in QSTASH_URL"):
        Batchflow("qstash://qstash.example.com")


def test_an_app_on_qstash_is_no_qstash_itself(flow: Batchflow) -> None:
    """It has no worker that would deliver the messages."""
    with pytest.raises(ConfigurationError, match="serve that by another app, such as Batchflow"):
        _ = flow.server


@pytest.fixture
def flow(environment: pytest.MonkeyPatch) -> Batchflow:
    return Batchflow(QStash(token="e30=", verify=False))


REFUSED: dict[str, Callable[[Batchflow], object]] = {
    "the batches of 'greet' need a store": lambda flow: flow.batch(greet),
}


async def greet(name: str) -> str:
    return name


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_qstash_does_not_do_for_an_app_is_refused_with_a_sentence(flow: Batchflow, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        REFUSED[sentence](flow)


async def test_a_worker_is_refused_since_qstash_calls_the_app(flow: Batchflow) -> None:
    with pytest.raises(ConfigurationError, match="start no worker"):
        await flow.start(worker=True)
    await flow.stop()


async def test_a_trigger_without_a_public_url_says_what_to_set(flow: Batchflow) -> None:
    @flow.serve("/onboarding")
    async def onboarding(ctx: WorkflowContext[str]) -> None: ...

    with pytest.raises(ConfigurationError, match="set APP_URL"):
        await onboarding.trigger("ada")


@pytest.mark.parametrize("way", ["QSTASH_URL", "url"])
def test_an_address_with_a_password_is_refused_without_showing_it(environment: pytest.MonkeyPatch, way: str) -> None:
    """Messages, answers and QStash's own log name the address."""
    url = "http://user:s3cret@qstash.test"
    environment.setenv("QSTASH_URL", url)
    with pytest.raises(ConfigurationError, match=f"'{way}' has a user or a password; leave them out") as raised:
        Batchflow(QStash(token="e30=", verify=False, url=url if way == "url" else None))
    assert "s3cret" not in str(raised.value)


@pytest.fixture
async def stage(environment: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    environment.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:
        yield stage


async def test_a_step_with_more_retries_than_its_function_is_refused(stage: WireStage) -> None:
    said: list[str] = []

    @stage.flow.serve("/patient", retries=1)
    async def patient(ctx: WorkflowContext[None]) -> None:
        for policy in (RetryPolicy(retries=9), RetryPolicy(retries=1, cap="2d")):
            try:
                ctx.step(retry=policy)
            except ConfigurationError as error:
                said.append(str(error))
        await ctx.step(retry=RetryPolicy(retries=1)).run("step", step)

    async def step() -> None: ...

    await stage.open()
    run = await patient.trigger(None)
    await stage.drive()
    assert (await run.status()).state == "completed"
    assert "QStash delivers a run of this function 2 times" in said[0]
    assert "'retry' waits up to 2d before a retry" in said[1]


def test_a_token_without_a_user_makes_no_webhook(flow: Batchflow) -> None:
    engine = flow.engine
    assert isinstance(engine, QStashEngine)
    with pytest.raises(ConfigurationError, match="QSTASH_TOKEN names no user"):
        engine.directory.app.webhook_url("run_1.whk_1")


async def test_a_rate_limit_costs_an_attempt_and_is_tried_again_at_its_time(stage: WireStage) -> None:
    times: list[int] = []

    @stage.flow.serve("/limited", retries=1)
    async def limited(ctx: WorkflowContext[None]) -> str:
        async def step() -> None:
            times.append(stage.clock.now())
            raise RateLimited(90)

        try:
            await ctx.run("step", step)
        except StepFailed:
            return "failed"
        return "done"

    await stage.open()
    run = await limited.trigger(None)
    await stage.drive()
    assert [later - times[0] for later in times] == [0, 90_000]
    assert (await run.status()).state == "failed"


PLACES: dict[str, dict[str, Any]] = {
    "url": {"url": "https://own.example.com/at/placed"},
    "base_url": {"base_url": "https://own.example.com/at"},
    "env": {"env": {"UPSTASH_WORKFLOW_URL": "https://own.example.com/at"}},
}


@pytest.mark.parametrize("option", PLACES)
async def test_qstash_calls_a_function_at_the_address_that_its_options_say(stage: WireStage, option: str) -> None:
    urls: list[str] = []

    async def elsewhere(request: PushRequest) -> PushResponse:
        urls.append(request.url)
        transport = httpx.ASGITransport(stage.client.app or FastAPI())
        async with httpx.AsyncClient(transport=transport) as http:
            answer = await http.post(f"{APP_URL}/placed", headers=dict(request.headers), content=request.body)
        return PushResponse(answer.status_code, tuple(answer.headers.items()), answer.content)

    @stage.flow.serve("/placed", **PLACES[option])
    async def placed(ctx: WorkflowContext[None]) -> None:
        await ctx.sleep("a moment", "1s")

    stage.client.elsewhere = elsewhere
    await stage.open()
    run = await placed.trigger(None)
    await stage.drive()
    assert (await run.status()).state == "completed"
    assert set(urls) == {"https://own.example.com/at/placed"}


async def test_a_verbose_function_logs_the_events_of_its_runs_on_qstash(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    @stage.flow.serve("/chatty", verbose=True)
    async def chatty(ctx: WorkflowContext[None]) -> None:
        await ctx.run("step", greet, "ada")

    await stage.open()
    with caplog.at_level("INFO"):
        await chatty.trigger(None)
        await stage.drive()
    events = [it.message.partition("] ")[2].split()[0] for it in caplog.records if "[batchflow:chatty]" in it.message]
    assert events == [
        "SUBMIT_FIRST_INVOCATION",
        *("ENDPOINT_START", "RUN_SINGLE", "SUBMIT_STEP"),
        *("ENDPOINT_START", "SUBMIT_CLEANUP"),
    ]


WAITS: list[tuple[dict[str, Any], list[int]]] = [({}, [7, 7]), ({"retry_delay": "1000 * 5 * (1 + retried)"}, [5, 10])]


@pytest.mark.parametrize("answers", [True, False], ids=["answering", "silent"])
@pytest.mark.parametrize(("options", "waits"), WAITS, ids=str)
async def test_the_waits_before_retries_are_those_of_the_run_whether_the_app_answers_or_not(
    stage: WireStage, answers: bool, options: dict[str, Any], waits: list[int]
) -> None:
    times: list[int] = []

    @stage.flow.serve("/patient", retries=2, retry_delay="7s")
    async def patient(ctx: WorkflowContext[None]) -> None:
        times.append(stage.clock.now())
        raise ValueError("no")

    stage.client.after = lambda _, response: response if answers else PushResponse(502)
    await stage.open()
    await patient.trigger(None, **options)
    await stage.drive()
    assert [later - earlier for earlier, later in pairwise(times)] == [1000 * it for it in waits]


UNKEPT: dict[str, dict[str, Any]] = {
    "'burst' is 5, and QStash has none": {"flow_control": FlowControl(key="api", rate=5, burst=5)},
    "'period' cannot be '1s500ms'; QStash has": {"flow_control": FlowControl(key="api", rate=5, period="1500ms")},
    "'period' cannot be '8d'; QStash has": {"flow_control": FlowControl(key="api", rate=5, period="8d")},
    "'retry' waits up to 2d before a retry": {"retry_delay": "2d"},
    "'label' cannot be 'a, b'; QStash has": {"label": "a, b"},
}
UNKEPT_OF_RUNS: dict[str, dict[str, Any]] = {
    **UNKEPT,
    "'headers' has 'x-forwarded-for'": {"headers": {"X-Forwarded-For": "::1"}},
}


@pytest.mark.parametrize("sentence", UNKEPT)
def test_options_that_qstash_does_not_keep_are_refused_when_the_function_is_decorated(
    flow: Batchflow, sentence: str
) -> None:
    async def function(ctx: WorkflowContext[None]) -> None: ...

    with pytest.raises(ConfigurationError, match=sentence):
        flow.serve("/unkept", **UNKEPT[sentence])(function)
    assert "/unkept" not in flow.served
    Batchflow("sqlite://").serve("/kept", **UNKEPT[sentence])(function)


@pytest.mark.parametrize("sentence", UNKEPT_OF_RUNS)
async def test_options_that_qstash_does_not_keep_are_refused_when_the_run_is_started(
    stage: WireStage, sentence: str
) -> None:
    said: list[str] = []

    @stage.flow.serve("/child")
    async def child(ctx: WorkflowContext[None]) -> None: ...

    @stage.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> None:
        try:
            await ctx.invoke("child", child, None, **UNKEPT_OF_RUNS[sentence])
        except InputError as error:
            said.append(str(error))

    await stage.open()
    with pytest.raises(InputError, match=sentence):
        await child.trigger(None, **UNKEPT_OF_RUNS[sentence])
    await parent.trigger(None)
    await stage.drive()
    assert said
    assert re.search(sentence, said[0])


async def test_limits_of_a_call_that_qstash_does_not_keep_fail_its_step(stage: WireStage) -> None:
    @stage.flow.serve("/caller")
    async def caller(ctx: WorkflowContext[None]) -> None:
        await ctx.call("ask", "https://api.example.com", retries=1, retry_delay="2d")

    await stage.open()
    run = await caller.trigger(None)
    await stage.drive()
    assert "'retry' waits up to 2d before a retry, and QStash at most a day" in str((await run.status()).error)


@pytest.mark.parametrize("header", ["Upstash-Workflow-Callback", "Upstash-Schedule-Id"])
async def test_a_call_cannot_be_taken_for_a_request_of_qstash_about_a_run(stage: WireStage, header: str) -> None:
    """It is signed with the keys of deliveries, and its URL, which a user may have chosen, may be one of the app."""
    calls: list[int] = []

    @stage.flow.serve("/caller")
    async def caller(ctx: WorkflowContext[str]) -> None:
        calls.append(1)
        forged = {header: "true", "Upstash-Workflow-RunId": "wfr_victim"}
        await ctx.call("tell", f"{APP_URL}/caller", headers=forged, body={"status": 200})

    await stage.open()
    run = await caller.trigger("ada")
    await stage.drive()
    assert f"'headers' has '{header.lower()}', by which apps know" in str((await run.status()).error)
    assert set(stage.client.answers) == {200, 489}
    assert len(calls) == 1


async def test_a_rate_limit_of_days_is_tried_again_after_a_day(stage: WireStage) -> None:
    times: list[int] = []

    @stage.flow.serve("/limited", retries=1)
    async def limited(ctx: WorkflowContext[None]) -> None:
        times.append(stage.clock.now())
        raise RateLimited(3 * 86_400)

    await stage.open()
    await limited.trigger(None)
    await stage.drive()
    assert [later - earlier for earlier, later in pairwise(times)] == [86_400_000]


async def test_over_http_they_are_refused_as_what_the_caller_has_sent(stage: WireStage) -> None:
    @stage.flow.serve("/strict")
    async def strict(ctx: WorkflowContext[int]) -> None: ...

    await stage.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app or FastAPI())) as http:
        answer = await http.post(f"{APP_URL}/strict", json=1, headers={"Upstash-Label": "a, b"})
    assert answer.status_code == 422
    assert (
        answer.json()["error"]
        == "'Upstash-Label' cannot be 'a, b'; QStash has labels of letters, digits, '-', '_' and '.'"
    )


async def test_the_parser_of_a_function_reads_the_body_with_which_another_program_triggers_it(stage: WireStage) -> None:
    @stage.flow.serve("/shout", initial_payload_parser=str.upper)
    async def shout(ctx: WorkflowContext[str]) -> str:
        await ctx.sleep("a moment", "1s")
        return ctx.payload

    await stage.open()
    async with httpx.AsyncClient(transport=stage.transport, headers={"authorization": f"Bearer {stage.token}"}) as http:
        url = f"http://qstash.test/v2/trigger/{APP_URL}/shout"
        started = await http.post(url, content=b"hello", headers={"content-type": "text/plain"})
    await stage.drive()
    assert (await stage.flow.run(started.json()["workflowRunId"]).status()).result == '"HELLO"'
