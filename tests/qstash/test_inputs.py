"""Wrong options of QStash are refused when they are written, and an app that does not know its URL says so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from batchflow import Batchflow, QStash, Receiver, WorkflowContext
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import ConfigurationError
from tests.qstash.batch_programs import Greet, nothing
from tests.qstash.stage import APP_URL, WireStage

SECRET = "sec ret"
WRONG: dict[str, list[Any]] = {
    "store": [5, "", " ", object(), dict],
    "url": [5, "", "qstash.example.com"],
    "token": [5, "", True, f"{SECRET}\n", "é"],
    "current_signing_key": [5, "", f"{SECRET}\n"],
    "next_signing_key": [5, "", f"{SECRET}\n"],
    "verify": ["no", 0, None],
    "clock_tolerance": ["soon", -1, None],
    "telemetry": ["no", None],
    "relay_cron": [5, "", "often", True],
    "transport": [5, "", object(), httpx.AsyncHTTPTransport],
}


@pytest.mark.parametrize(("option", "value"), [(option, it) for option, values in WRONG.items() for it in values])
def test_a_wrong_option_of_qstash_is_refused_with_a_sentence_that_names_it(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option.replace("relay_cron", "cron")) as raised:
        QStash(**{option: value})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("option", ["current_signing_key", "next_signing_key"])
@pytest.mark.parametrize("value", [5, "", None, f"{SECRET}\n"], ids=str)
def test_a_receiver_with_a_wrong_key_is_refused_without_showing_it(option: str, value: Any) -> None:
    keys: dict[str, Any] = {"current_signing_key": "a", "next_signing_key": "b", option: value}
    with pytest.raises(ConfigurationError, match=f"'{option}'") as raised:
        Receiver(**keys)
    assert SECRET not in str(raised.value)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY"):
        monkeypatch.setenv(name, "t")
    for name in ("QSTASH_URL", "BATCHFLOW_STORE", "APP_URL", "BATCHFLOW_APP_URL", "UPSTASH_WORKFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


WRONG_VARIABLES = {
    "QSTASH_TOKEN": f"{SECRET}\n",
    "QSTASH_CURRENT_SIGNING_KEY": f"{SECRET}\n",
    "QSTASH_NEXT_SIGNING_KEY": f"{SECRET}\n",
    "QSTASH_URL": "qstash.example.com",
    "BATCHFLOW_STORE": "memory",
    "APP_URL": "app.example.com",
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_a_wrong_variable_is_named_when_the_app_is_made(variables: pytest.MonkeyPatch, name: str) -> None:
    variables.setenv(name, WRONG_VARIABLES[name])
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b") as raised:
        Batchflow("qstash://")
    assert SECRET not in str(raised.value)


def test_an_empty_variable_for_the_store_is_none(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("BATCHFLOW_STORE", "")
    with pytest.raises(ConfigurationError, match="need a store"):
        Batchflow("qstash://").add(Greet(1, nothing))


@pytest.mark.parametrize("name", ["QSTASH_TOKEN", "QSTASH_NEXT_SIGNING_KEY", "QSTASH_URL", "APP_URL"])
def test_a_wrong_variable_of_a_function_is_named_when_it_is_decorated(variables: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b") as raised:
        Batchflow("qstash://").serve("/hello", env={name: WRONG_VARIABLES[name]})
    assert SECRET not in str(raised.value)


@pytest.fixture
async def homeless(variables: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """An app that does not know its URL."""
    async with WireStage(batches=True) as stage:
        stage.flow.add(Greet(1, nothing))

        @stage.flow.serve("/hello")
        async def hello(ctx: WorkflowContext[str]) -> None: ...

        await stage.open()
        async with stage.operator() as http:
            yield http


REQUESTS: list[tuple[str, str, Any, int]] = [
    ("GET", "/runs", None, 200),
    ("GET", "/runs?function=/hello", None, 503),
    ("POST", "/runs/cancel", {"function": "/hello"}, 503),
    ("GET", "/dlq", None, 503),
    ("GET", "/dlq/groups", None, 503),
    *(("POST", f"/dlq/{it}", {"label": "x"}, 503) for it in ("resume", "restart", "callback", "delete")),
    ("GET", "/schedules", None, 200),
    ("POST", "/schedules", {"target": "/hello", "cron": "0 3 * * *", "payload": "x"}, 503),
    ("POST", "/greet/process-users", {}, 503),
    ("GET", "/batches", None, 200),
    ("GET", "/flow", None, 200),
]


async def test_what_needs_the_url_of_the_app_says_what_to_set_and_all_else_works(homeless: httpx.AsyncClient) -> None:
    for method, path, body, status in REQUESTS:
        answer = await homeless.request(method, path, json=body)
        assert answer.status_code == status, (method, path, answer.text)
        if status == 503:
            assert "set APP_URL" in answer.json()["error"]


async def test_a_run_that_is_started_over_http_has_the_url_of_its_request(variables: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    async with WireStage() as stage:

        @stage.flow.serve("/say/hello")
        async def longer(ctx: WorkflowContext[str]) -> None:
            await ctx.sleep("a moment", "1s")
            ended.append(ctx.payload)

        @stage.flow.serve("/hello")
        async def hello(ctx: WorkflowContext[str]) -> None:
            await longer(ctx)

        await stage.open()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app or 0)) as http:  # type: ignore[arg-type]
            started = await http.post(f"{APP_URL}/say/hello", json="ada")
        assert started.status_code == 202, started.text
        await stage.drive()
        assert ended == ["ada"]
        assert {it.url for it in stage.client.requests} == {f"{APP_URL}/say/hello"}
        run = await stage.flow.run(started.json()["workflowRunId"]).status()
        assert (run.state, run.destination) == ("completed", "/say/hello")


async def test_qstash_waits_for_the_answer_of_each_step_as_long_as_its_function_says(
    variables: pytest.MonkeyPatch,
) -> None:
    variables.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:

        async def api(request: PushRequest) -> PushResponse:
            return PushResponse(200, (), b"{}")

        stage.client.elsewhere = api

        @stage.flow.serve("/slow", timeout="2h")
        async def slow(ctx: WorkflowContext[str]) -> None:
            async def step() -> None: ...

            await ctx.run("one", step)
            await ctx.sleep("nap", "1s")
            async with asyncio.TaskGroup() as group:
                for name in "ab":
                    group.create_task(ctx.run(name, step))
            await ctx.call("ask", "https://api.example.com")
            await ctx.wait_for_event("never", "never", timeout="1s")
            await ctx.invoke("child", quick, None)

        @stage.flow.serve("/quick")
        async def quick(ctx: WorkflowContext[None]) -> None: ...

        await stage.open()
        run = await slow.trigger("ada")
        await stage.drive()
        assert (await run.status()).state == "completed"
        limits = {(it.url.rpartition("/")[2], it.timeout_ms) for it in stage.client.requests}
        assert limits == {("slow", 7_260_000), ("quick", 900_000)}
        stage.client.requests.clear()
        async with stage.console() as qstash:
            started = await qstash.post(f"/v2/trigger/{APP_URL}/slow", json="bob")
        await stage.drive()
        assert (await stage.flow.run(started.json()["workflowRunId"]).status()).state == "completed"
        # The app says so when QStash first asks.
        assert {it.timeout_ms for it in stage.client.requests[1:] if it.url.endswith("/slow")} == {7_260_000}


def test_a_function_that_takes_longer_than_qstash_waits_is_refused(variables: pytest.MonkeyPatch) -> None:
    async def endless(ctx: WorkflowContext[None]) -> None: ...

    with pytest.raises(ConfigurationError, match="'timeout' of '/endless' is 13h, and QStash waits no longer than 12h"):
        Batchflow("qstash://").serve("/endless", timeout="13h")(endless)
