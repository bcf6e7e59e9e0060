"""The routes of schedules."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.engine.engine import Engine
from batchflow.server import schedules
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock

URL = "https://app.example/jobs//nightly?day=1"
HOURLY = {"Upstash-Cron": "0 * * * *"}
NEXT_HOUR = 1_700_002_800_000


async def make(http: AsyncClient, destination: str = URL, body: bytes = b"", **headers: str) -> Any:
    named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
    response = await http.post(f"/v2/schedules/{destination}", content=body, headers={**HOURLY, **named})
    assert response.status_code == 200, response.text
    return response.json()["scheduleId"]


async def show(http: AsyncClient, id: str) -> Any:
    return (await http.get(f"/v2/schedules/{id}")).json()


async def test_a_schedule_is_made_and_shown(http: AsyncClient, clock: ManualClock) -> None:
    """With an id of its own; the destination is taken as it was sent, with its query."""
    id = await make(http)
    assert id.startswith("scd_")
    assert await show(http, id) == {
        "scheduleId": id,
        "destination": URL,
        "cron": "0 * * * *",
        "createdAt": clock.now(),
        "isPaused": False,
        "method": "POST",
        "retries": 3,
        "callerIP": "127.0.0.1",
        "nextScheduleTime": NEXT_HOUR,
    }


async def test_a_schedule_shows_what_its_messages_have(http: AsyncClient) -> None:
    """All that was set."""
    id = await make(
        http,
        body=b"hello",
        Cron=" CRON_TZ=Europe/Berlin 0 3 * * * ",
        Method="PUT",
        Retries="5",
        Retry_Delay="1000 * retried",
        Delay="90s",
        Timeout="30s",
        Forward_X_Job="nightly",
        Callback="https://app.example/done",
        Callback_Forward_X_Job="done",
        Failure_Callback="https://app.example/failed",
        Flow_Control_Key="jobs",
        Flow_Control_Value="parallelism=2, rate=3, period=1m",
        Label="one,two",
    )
    shown = await show(http, id)
    assert {
        name: shown[name] for name in shown if name not in ("scheduleId", "destination", "createdAt", "callerIP")
    } == {
        "cron": "CRON_TZ=Europe/Berlin 0 3 * * *",
        "isPaused": False,
        "method": "PUT",
        "retries": 5,
        "header": {"X-Job": ["nightly"]},
        "body": "hello",
        "delay": 90,
        "timeout": 30,
        "callback": "https://app.example/done",
        "failureCallback": "https://app.example/failed",
        "callbackHeader": {"Upstash-Retries": ["5"], "Upstash-Forward-X-Job": ["done"]},
        "failureCallbackHeader": {"Upstash-Retries": ["5"]},
        "retryDelayExpression": "1000 * retried",
        "flowControlKey": "jobs",
        "parallelism": 2,
        "rate": 3,
        "period": 60,
        "label": "one",
        "labels": ["one", "two"],
        "nextScheduleTime": 1_700_013_600_000,
    }


async def test_the_messages_of_a_schedule_may_have_a_queue(http: AsyncClient) -> None:
    """Each fire enqueues one."""
    assert (await show(http, await make(http, Queue_Name="mail")))["queueName"] == "mail"


async def test_bytes_that_are_not_text_are_shown_in_base64(http: AsyncClient) -> None:
    """And what is redacted as its hash."""
    assert (await show(http, await make(http, body=b"\xff")))["bodyBase64"] == "/w=="
    assert (await show(http, await make(http, body=b"secret", Redact_Fields="body")))["body"].startswith("REDACTED:")


async def test_a_schedule_with_a_known_id_is_replaced(http: AsyncClient) -> None:
    """Its pause stays."""
    assert await make(http, Schedule_Id="nightly") == "nightly"
    await http.patch("/v2/schedules/nightly/pause")
    assert await make(http, "https://other.example", Schedule_Id="nightly", Cron="30 * * * *") == "nightly"
    (shown,) = (await http.get("/v2/schedules")).json()
    assert (shown["destination"], shown["cron"], shown["isPaused"]) == ("https://other.example", "30 * * * *", True)


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_a_schedule_is_paused_and_resumed(http: AsyncClient, clock: ManualClock, method: str) -> None:
    """The SDKs send PATCH, the documentation says POST; both may be repeated."""
    id = await make(http)
    for _ in range(2):
        assert (await http.request(method, f"/v2/schedules/{id}/pause")).status_code == 200
    shown = await show(http, id)
    assert (shown["isPaused"], "nextScheduleTime" in shown) == (True, False)
    clock.advance("2h")
    for _ in range(2):
        assert (await http.request(method, f"/v2/schedules/{id}/resume")).status_code == 200
    shown = await show(http, id)
    assert (shown["isPaused"], shown["nextScheduleTime"]) == (False, NEXT_HOUR + 7_200_000)


async def test_a_deleted_schedule_is_gone(http: AsyncClient, engine: Engine) -> None:
    """From the store too."""
    id = await make(http)
    assert (await http.delete(f"/v2/schedules/{id}")).status_code == 200
    assert (await http.delete(f"/v2/schedules/{id}")).status_code == 404
    assert await engine.store.schedules() == []


async def test_schedules_are_apart_by_tenant(http: AsyncClient, other_http: AsyncClient) -> None:
    """One id is two schedules, and nobody sees or changes those of another tenant."""
    await make(http, Schedule_Id="b")
    await make(http, Schedule_Id="a")
    await make(other_http, Schedule_Id="a", Cron="30 * * * *")
    assert [it["scheduleId"] for it in (await http.get("/v2/schedules")).json()] == ["a", "b"]
    assert (await show(other_http, "a"))["cron"] == "30 * * * *"
    assert (await other_http.get("/v2/schedules/b")).status_code == 404
    assert (await other_http.delete("/v2/schedules/b")).status_code == 404
    assert (await other_http.patch("/v2/schedules/b/pause")).status_code == 404
    await other_http.delete("/v2/schedules/a")
    assert (await show(http, "a"))["cron"] == "0 * * * *"


async def test_all_schedules_are_listed(http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a page of the store."""
    monkeypatch.setattr(schedules, "_PAGE", 5)
    for number in range(12):
        await make(http, Schedule_Id=f"s{number:02d}")
    assert len((await http.get("/v2/schedules")).json()) == 12


async def test_a_schedule_of_a_group_needs_the_group(http: AsyncClient) -> None:
    """Its endpoints may change later."""
    response = await http.post("/v2/schedules/group", headers=HOURLY)
    assert (response.status_code, response.json()["error"][:31]) == (404, "there is no URL group 'group'; ")
    await http.post("/v2/topics/group/endpoints", json={"endpoints": [{"url": "https://a.example"}]})
    shown = await show(http, await make(http, "group"))
    assert (shown["destination"], "url" in shown, "topicName" in shown) == ("group", False, False)


async def test_settings_may_be_in_the_query(http: AsyncClient) -> None:
    """As of a publish request; the rest of the query belongs to the destination."""
    response = await http.post(
        "/v2/schedules/https://app.example/?a=1&upstash-cron=0%20*%20*%20*%20*&upstash-retries=7"
    )
    shown = await show(http, response.json()["scheduleId"])
    assert (shown["destination"], shown["retries"]) == ("https://app.example/?a=1", 7)


async def test_a_publish_with_a_cron_expression_makes_a_schedule(http: AsyncClient, engine: Engine) -> None:
    """As the documentation of QStash says; nothing is published now."""
    response = await http.post("/v2/publish/https://app.example", headers={**HOURLY, "Upstash-Schedule-Id": "a"})
    assert (response.status_code, response.json()) == (201, {"scheduleId": "a"})
    assert (await show(http, "a"))["destination"] == "https://app.example"
    assert await wire_store(engine).open_posts("ours") == []


@pytest.mark.parametrize(
    ("path", "headers", "says"),
    [
        ("https://app.example", {}, "'upstash-cron' is missing"),
        ("https://app.example", {"Upstash-Cron": "often"}, "'upstash-cron' is not valid: "),
        ("https://app.example", {"Upstash-Cron": "0 0 31 2 *"}, "'upstash-cron' is not valid: "),
        ("https://app.example", {"Upstash-Cron": "CRON_TZ=Mars/City 0 0 * * *"}, "'upstash-cron' is not valid: "),
        ("https://app.example", {**HOURLY, "Upstash-Schedule-Id": "a/b"}, "'upstash-schedule-id' cannot be 'a/b'"),
        ("https://app.example", {**HOURLY, "Upstash-Not-Before": "1"}, "a schedule has no 'upstash-not-before'"),
        ("https://app.example", {**HOURLY, "Upstash-Retries": "x"}, "'upstash-retries' cannot be 'x'"),
        ("ftp://app.example", HOURLY, "'destination' is neither a URL"),
        ("", HOURLY, ""),
    ],
)
async def test_a_wrong_schedule_is_refused(http: AsyncClient, path: str, headers: dict[str, str], says: str) -> None:
    """With a sentence that names the header."""
    response = await http.post(f"/v2/schedules/{path}", headers=headers)
    assert response.status_code == 400
    assert response.json()["error"].startswith(says)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "none"), ("DELETE", "none"), ("PATCH", "none/pause"), ("POST", "none/resume")]
)
async def test_a_schedule_that_does_not_exist_is_not_found(http: AsyncClient, method: str, path: str) -> None:
    """With a sentence."""
    response = await http.request(method, f"/v2/schedules/{path}")
    sentence = "there is no schedule 'none'; make it with POST /v2/schedules"
    assert (response.status_code, response.json()) == (404, {"error": sentence})


async def test_the_document_of_the_api_names_the_destination(stranger: AsyncClient) -> None:
    """Though the route reads it from the path as it was sent."""
    paths = (await stranger.get("/openapi.json")).json()["paths"]
    parameters = paths["/v2/schedules/{destination}"]["post"]["parameters"]
    assert [it["name"] for it in parameters] == ["destination", "Upstash-Cron", "Upstash-Schedule-Id"]
