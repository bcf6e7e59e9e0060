"""An endpoint makes the requests that the official SDK for JavaScript makes for the same program and deliveries."""

import asyncio
import json
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI

from batchflow import Batchflow, FlowControl, QStash, WorkflowContext
from tests.sdk.javascript import FOLDER, find_node

Answer: TypeAlias = dict[str, Any]

ENTRIES = (
    '{"a":1}',
    '{"stepId":1,"stepName":"one","stepType":"Run","out":"{\\"text\\":\\"é\\",\\"number\\":1}","concurrent":1}',
    '{"stepId":2,"stepName":"until","stepType":"SleepUntil","sleepUntil":1900000000,"concurrent":1}',
    '{"stepId":3,"stepName":"ask","stepType":"Call","out":"{\\"status\\":200,\\"body\\":\\"{}\\",\\"header\\":{}}",'
    '"concurrent":1}',
    '{"stepId":4,"stepName":"wait","stepType":"Wait","concurrent":1,"waitEventId":"paid/1","out":""}',
    '{"stepId":0,"stepName":"left","stepType":"Run","concurrent":2,"targetStep":5}',
    '{"stepId":0,"stepName":"right","stepType":"SleepUntil","sleepUntil":1900000005,"concurrent":2,"targetStep":6}',
    '{"stepId":5,"stepName":"left","stepType":"Run","out":"1","concurrent":2}',
    '{"stepId":6,"stepName":"right","stepType":"SleepUntil","sleepUntil":1900000005,"concurrent":2}',
    '{"stepId":7,"stepName":"note","stepType":"Notify","out":"{}","concurrent":1}',
    '{"stepId":8,"stepName":"child","stepType":"Invoke","concurrent":1,'
    '"out":"{\\"body\\":\\"7\\",\\"isCanceled\\":false,\\"isFailed\\":false}"}',
)
CALLBACK_HEADERS = {
    "upstash-workflow-callback": "true",
    "upstash-workflow-stepid": "3",
    "upstash-workflow-stepname": "ask",
    "upstash-workflow-steptype": "Call",
    "upstash-workflow-concurrent": "1",
    "upstash-workflow-contenttype": "application/json",
}
CALLBACK_BODY = {
    "status": 200,
    "header": {"Content-Type": ["application/json"]},
    "body": "eyJyIjoyfQ==",
    "retried": 0,
    "maxRetries": 2,
}
COMMON = {
    "upstash-workflow-runid": "wfr_1",
    "upstash-workflow-createdat": "1700000000000",
    "upstash-message-id": "msg_0",
    "content-type": "application/json",
}
WAITS = "1000 * (1 + retried)"
WIRE_WAITS = f"min(3600000, {WAITS})"
FLOW = FlowControl(key="api", parallelism=2, rate=5, period="1m")
WIRE_FLOW = {"key": "api", "parallelism": 2, "rate": 5, "period": "1m"}
LIMITS_OF_RUN: dict[str, Any] = {"retries": 2, "retry_delay": WAITS, "flow_control": FLOW}
LIMITS = {"retries": 2, "retryDelay": WIRE_WAITS, "flowControl": WIRE_FLOW}
BASE = {"body": "7", "workflowRunId": "1"}
TRIGGERS: list[dict[str, Any]] = [
    {**BASE, "url": "https://app.example.com/child"},
    {**BASE, "url": "https://app.example.com/child", **LIMITS},
    {
        **BASE,
        "url": "https://app.example.com/child",
        "label": "vip",
        "notBefore": 1_900_000_000,
        "headers": {"x-tenant": "acme"},
        "retries": 0,
    },
    {**BASE, "url": "https://app.example.com/limited", **LIMITS, "headers": {"x-tenant": "acme"}, "label": "own"},
    {**BASE, "url": "https://app.example.com/reported", "failureUrl": "https://app.example.com/failed"},
]
DELIVERIES = [ENTRIES[: count + 1] for count in range(len(ENTRIES))]
_NOT_COMPARED = frozenset(
    {"host", "connection", "accept", "accept-language", "accept-encoding", "sec-fetch-mode", "user-agent"}
    | {"content-length", "authorization"}
    # Newer versions of the SDK than the published one send it.
    | {"upstash-workflow-createdat"}
)


def program(requests: list[Answer]) -> Batchflow:
    """The program of `tape.mjs` on batchflow; `requests` gets what it sends to QStash."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        body = request.content.decode()
        if request.method == "GET":
            return httpx.Response(200, json=[] if request.url.path == "/v2/schedules" else {"runs": []})
        requests.append({"method": request.method, "path": path, "headers": dict(request.headers), "body": body})
        return httpx.Response(200, json=[] if path.startswith("/v2/notify") else [{"messageId": "msg_1"}])

    token = b64encode(b'{"UserID":"user","Password":"secret"}').decode()
    flow = Batchflow(QStash(url="https://q.example", token=token, verify=False, transport=httpx.MockTransport(answer)))

    @flow.serve("/child", base_url="https://app.example.com")
    async def child(ctx: WorkflowContext[int]) -> int:
        return ctx.payload

    @flow.serve("/parent", base_url="https://app.example.com")
    async def parent(ctx: WorkflowContext[dict[str, int]]) -> dict[str, bool]:
        async def one() -> dict[str, Any]:
            return {"text": "é", "number": 1}

        async def left() -> int:
            return 1

        await ctx.run("one", one)
        await ctx.sleep_until("until", datetime.fromtimestamp(1_900_000_000, UTC))
        url = "https://api.example.com/x"
        headers = {"x-a": "b", "content-type": "application/json"}
        await ctx.call("ask", url, method="POST", body='{"q":1}', headers=headers, timeout="30s", **LIMITS_OF_RUN)
        await ctx.wait_for_event("wait", "paid/1", timeout="20s")
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.run("left", left))
            group.create_task(ctx.sleep_until("right", datetime.fromtimestamp(1_900_000_005, UTC)))
        await ctx.notify("note", "other", {"a": 1})
        await ctx.invoke("child", child, 7, **LIMITS_OF_RUN)
        return {"done": True}

    @flow.serve("/limited", base_url="https://app.example.com", label="own", **LIMITS_OF_RUN)
    async def limited(ctx: WorkflowContext[int]) -> None: ...

    @flow.serve("/reported", base_url="https://app.example.com", failure_url="https://app.example.com/failed")
    async def reported(ctx: WorkflowContext[int]) -> None: ...

    return flow


async def trigger_all(flow: Batchflow) -> None:
    """Start what `TRIGGERS` says."""
    child, limited, reported = (flow.served[route] for route in ("/child", "/limited", "/reported"))
    tenant = {"x-tenant": "acme"}
    await child.trigger(7, run_id="1")
    await child.trigger(7, run_id="1", **LIMITS_OF_RUN)
    at = datetime.fromtimestamp(1_900_000_000, UTC)
    await child.trigger(7, run_id="1", label="vip", not_before=at, headers=tenant, retries=0)
    await limited.trigger(7, run_id="1", headers=tenant)
    await reported.trigger(7, run_id="1")


def steps_of(entries: tuple[str, ...]) -> str:
    return json.dumps(
        [
            {"messageId": f"msg_{place}", "body": b64encode(entry.encode()).decode(), "callType": "step"}
            for place, entry in enumerate(entries)
        ]
    )


async def answers_of_batchflow() -> list[Answer]:
    requests: list[Answer] = []
    answers: list[Answer] = []
    flow = program(requests)
    app = FastAPI(lifespan=flow.lifespan)
    app.include_router(flow.router)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example.com") as http,
    ):
        sent = [({**COMMON, "upstash-workflow-sdk-version": "1"}, steps_of(it)) for it in DELIVERIES]
        for headers, body in [*sent, ({**COMMON, **CALLBACK_HEADERS}, json.dumps(CALLBACK_BODY))]:
            response = await http.post("/parent", headers=headers, content=body)
            answers.append({"status": response.status_code, "text": response.text, "requests": requests.copy()})
            requests.clear()
        await trigger_all(flow)
    return [*answers, *({"status": 200, "text": "{}", "requests": [it]} for it in requests)]


def answers_of_javascript() -> list[Answer]:
    callback = {"headers": CALLBACK_HEADERS, "body": CALLBACK_BODY}
    given = json.dumps({"deliveries": DELIVERIES, "callback": callback, "limits": LIMITS, "triggers": TRIGGERS})
    done = subprocess.run(
        [find_node(), "tape.mjs", given], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compared(request: Answer) -> Answer:
    """A request without the transport, telemetry, our own fields, and ids that each program makes."""
    return {
        "method": request["method"],
        "path": unquote(request["path"]),
        "headers": plain(request["headers"]),
        "body": fields(request["body"]),
    }


def plain(headers: Mapping[str, Any]) -> dict[str, Any]:
    lower = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lower.items() if is_compared(name, value)}


def is_compared(name: str, value: Any) -> bool:
    # `fetch` adds a type to every text.
    is_added = name == "content-type" and str(value).startswith("text/plain")
    return not (is_added or name in _NOT_COMPARED or name.startswith("upstash-telemetry") or is_child(value))


def is_child(value: Any) -> bool:
    """True for the id of the child, which each program derives in its own way."""
    return isinstance(value, str) and value.startswith("wfr_") and value != "wfr_1"


def fields(body: str) -> Any:
    try:
        read = json.loads(body)
    except ValueError:
        return body
    return without_own(read)


def without_own(part: Any) -> Any:
    match cast("object", part):
        case dict():
            kept: dict[str, Any] = {str(name): it for name, it in part.items() if name not in ("at", "due")}
            if {"headers", "timeoutHeaders"} & kept.keys():
                kept |= {name: plain(kept[name]) for name in ("headers", "timeoutHeaders") if name in kept}
            if isinstance(kept.get("body"), str):
                kept["body"] = fields(kept["body"])
            if kept.get("stepType") == "Notify":
                kept.pop("out", None)
            return {name: without_own(it) for name, it in kept.items()}
        case list():
            return [without_own(it) for it in part]
        case _:
            return part


async def test_every_delivery_makes_the_requests_that_the_official_sdk_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QSTASH_URL", "QSTASH_TOKEN", "APP_URL", "UPSTASH_WORKFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = await answers_of_batchflow(), answers_of_javascript()
    assert len(ours) == len(theirs) == len(DELIVERIES) + 1 + len(TRIGGERS)
    for delivery, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine["status"] == other["status"] == 200, (delivery, mine, other)
        condition = [json.loads(it["text"]).get("finishCondition") for it in (mine, other)]
        assert condition[0] == condition[1]
        assert [compared(it) for it in mine["requests"]] == [compared(it) for it in other["requests"]], delivery
