"""Runs on QStash are shown as on every engine, whoever has started them and whatever has arrived for them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from batchflow import NonRetryable, RetryPolicy, RunFailure, WorkflowContext
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.wire.submissions import Address, RunSettings, batch_submission, init_item, wire_id
from tests.qstash.stage import APP_URL, WireStage


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:
        yield stage


async def shown(stage: WireStage, id: str) -> dict[str, Any]:
    """A run as its route shows it."""
    async with stage.operator() as http:
        answer = await http.get(f"/runs/{id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def trigger(stage: WireStage, path: str, body: bytes, **headers: str) -> str:
    """The id of a run that somebody starts over the REST API of QStash."""
    async with stage.console() as http:
        answer = await http.post(f"/v2/trigger/{APP_URL}{path}", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["workflowRunId"])


async def test_what_each_kind_of_step_has_got_is_shown_as_on_other_engines(stage: WireStage) -> None:
    hooks: list[str] = []

    @stage.flow.serve("/child")
    async def child(ctx: WorkflowContext[int]) -> int:
        return ctx.payload + 1

    @stage.flow.serve("/all", retries=0)
    async def all_kinds(ctx: WorkflowContext[None]) -> None:
        hook = await ctx.create_webhook("hook")
        hooks.append(hook.url)
        await ctx.wait_for_event("JSON", "json")
        await ctx.wait_for_event("text", "text")
        await ctx.wait_for_event("never", "never", timeout="10s")
        await ctx.call("call", "https://third.example.com/", headers={"Authorization": "Bearer secret"})
        await ctx.invoke("invoke", child, 1)
        await ctx.wait_for_webhook("webhook", hook)

    async def answer(_: PushRequest) -> PushResponse:
        return PushResponse(200, (("Set-Cookie", "secret"),), b"\xff")

    stage.client.elsewhere = answer
    await stage.open()
    run = await all_kinds.trigger(None)
    await stage.drive(ms=1000)
    await stage.flow.notify("json", {"a": 1}, run_id=run.id)
    await stage.drive(ms=1000)
    async with stage.console() as http:
        await http.post("/v2/notify/text", content=b"no JSON")
    await stage.drive(ms=20_000)
    async with httpx.AsyncClient(transport=stage.transport) as http:
        await http.post(hooks[0], content=b"hello")
    await stage.drive()
    found = await shown(stage, run.id)
    assert found["state"] == "completed", found
    steps = {it["name"]: it for it in found["steps"]}
    assert (steps["JSON"]["result"], steps["text"]["result"]) == ({"a": 1}, "no JSON")
    assert (steps["never"]["state"], steps["never"]["result"]) == ("timeout", None)
    assert (steps["call"]["result"]["status"], steps["call"]["result"]["body"]) == (
        200,
        {"text": "/w==", "base64": True},
    )
    assert steps["invoke"]["result"] == 2
    assert steps["webhook"]["result"]["sent"] == {"text": "hello", "base64": False}
    assert "secret" not in str(found)
    assert hooks[0] not in str(found)


async def test_a_child_that_fails_is_shown_as_a_failed_step(stage: WireStage) -> None:
    @stage.flow.serve("/child", retries=0)
    async def child(ctx: WorkflowContext[None]) -> None:
        raise RuntimeError("broken")

    @stage.flow.serve("/parent", retries=0)
    async def parent(ctx: WorkflowContext[None]) -> None:
        await ctx.invoke("invoke", child, None)

    await stage.open()
    run = await parent.trigger(None)
    await stage.drive()
    assert [(it["name"], it["state"]) for it in (await shown(stage, run.id))["steps"]] == [("invoke", "failed")]


@pytest.mark.parametrize("body", [b"plain text", b"a=1&b=2", b"{", b" "])
async def test_a_body_that_is_not_json_is_the_text_of_a_payload_and_shown_as_that(
    stage: WireStage, body: bytes
) -> None:
    """As the SDKs of Upstash read it, whose clients send a text as it is."""
    seen: list[Any] = []

    @stage.flow.serve("/text")
    async def text(ctx: WorkflowContext[str]) -> str:
        return ctx.payload

    @stage.flow.serve("/anything")
    async def anything(ctx: WorkflowContext[Any]) -> None:
        seen.append(ctx.payload)

    @stage.flow.serve("/number")
    async def number(ctx: WorkflowContext[int]) -> None:
        seen.append(ctx.payload)

    @stage.flow.serve("/parsed", initial_payload_parser=len)
    async def parsed(ctx: WorkflowContext[int]) -> None:
        seen.append(ctx.payload)

    await stage.open()
    runs = [await trigger(stage, path, body) for path in ("/text", "/anything", "/number", "/parsed")]
    await stage.drive()
    found = [await shown(stage, run) for run in runs]
    assert [it["payload"] for it in found] == [body.decode()] * 4
    assert [it["state"] for it in found] == ["completed", "completed", "failed", "completed"]
    assert found[0]["result"] == body.decode()
    assert sorted(map(str, seen)) == sorted([body.decode(), str(len(body))])


async def test_a_failure_function_gets_the_text_of_a_payload_too(stage: WireStage) -> None:
    told: list[Any] = []

    async def tell(failure: RunFailure[Any]) -> None:
        told.append(failure.payload)

    @stage.flow.serve("/text", failure_function=tell)
    async def text(ctx: WorkflowContext[str]) -> None:
        raise NonRetryable("broken")

    @stage.flow.serve("/parsed", failure_function=tell, initial_payload_parser=len)
    async def parsed(ctx: WorkflowContext[int]) -> None:
        raise NonRetryable("broken")

    await stage.open()
    starts = [
        init_item(Address(wire_id(path), f"{APP_URL}/{path}"), "four", RunSettings(retry=RetryPolicy.none()))
        for path in ("text", "parsed")
    ]
    submission = batch_submission(starts)
    async with stage.console() as http:
        answer = await http.post(submission.path, headers=submission.headers, content=submission.body)
    assert answer.status_code == 201, answer.text
    await stage.drive()
    assert sorted(told, key=str) == [4, "four"]
