"""Only QStash reaches the functions of an app, and only with requests that it has signed for them, lately."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.wire.signature import SIGNATURE, sign
from tests.qstash.stage import APP_URL, WireStage

BODY = b'[{"messageId":"msg_1","body":"MQ==","callType":"step"}]'
OF_QSTASH = {"upstash-workflow-sdk-version": "1", "upstash-workflow-runid": "wfr_1", "content-type": "application/json"}
MINUTE = 60_000


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(clock_tolerance="10m") as stage:
        yield stage


@pytest.fixture
async def calls(stage: WireStage) -> list[int]:
    """The calls of the function of an app, which is open."""
    calls: list[int] = []

    @stage.flow.serve("/guarded")
    async def guarded(ctx: WorkflowContext[int]) -> None:
        calls.append(ctx.payload)

    await stage.open()
    return calls


async def post(stage: WireStage, headers: Mapping[str, str], body: bytes = BODY, path: str = "/guarded") -> int:
    assert stage.client.app is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=APP_URL) as http:
        response = await http.post(path, headers={**OF_QSTASH, **headers}, content=body)
    assert "sig_" not in response.text
    return response.status_code


def signed(stage: WireStage, *, key: str = "current", ago: int = 0, **changes: Any) -> dict[str, str]:
    values: dict[str, Any] = {"url": f"{APP_URL}/guarded", "body": BODY, **changes}
    signature = sign(
        stage.keys.get(key, key), values["url"], values["body"], now_ms=stage.clock.now() - ago, id="jwt_1"
    )
    return {SIGNATURE: signature}


@pytest.mark.parametrize("key", ["current", "next"])
async def test_a_request_that_is_signed_with_either_key_runs_the_function(
    stage: WireStage, calls: list[int], key: str
) -> None:
    assert await post(stage, signed(stage, key=key)) == 200
    assert calls == [1]


@pytest.mark.parametrize("minutes", [-14, 14])
async def test_clocks_may_differ_by_the_tolerance(stage: WireStage, calls: list[int], minutes: int) -> None:
    """A signature is valid for five minutes, and the tolerance is ten."""
    assert await post(stage, signed(stage, ago=minutes * MINUTE)) == 200
    assert calls == [1]


REFUSED: Mapping[str, Callable[[WireStage], dict[str, str]]] = {
    "unsigned": lambda _: {},
    "no JWT": lambda _: {SIGNATURE: "abc"},
    "a foreign key": lambda stage: signed(stage, key="sig_of_somebody_else"),
    "another URL": lambda stage: signed(stage, url=f"{APP_URL}/other"),
    "another body": lambda stage: signed(stage, body=b"[]"),
    "replayed after its time": lambda stage: signed(stage, ago=16 * MINUTE),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_another_request_starts_nothing_and_is_told_nothing(stage: WireStage, calls: list[int], how: str) -> None:
    assert await post(stage, REFUSED[how](stage)) == 401
    for name in ("upstash-workflow-callback", "upstash-workflow-failure-callback", "upstash-workflow-unknown-sdk"):
        assert await post(stage, {**REFUSED[how](stage), name: "true"}) == 401
    assert not calls


async def test_without_verification_every_request_is_answered_and_the_start_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(verify=False) as stage:
        calls: list[int] = []

        @stage.flow.serve("/guarded")
        async def guarded(ctx: WorkflowContext[int]) -> None:
            calls.append(ctx.payload)

        await stage.open()
        assert "Requests are not verified" in caplog.text
        assert await post(stage, {}) == 200
        assert calls == [1]


async def test_what_is_signed_and_no_delivery_is_told_in_one_sentence(stage: WireStage, calls: list[int]) -> None:
    wrong = b'[{"messageId":"a","body":"?","callType":"step"},{"messageId":"b","body":"e30=","callType":"step"}]'
    for body, said in ((b"", 200), (b"no JSON", 400), (b"[]", 400), (b'[{"messageId":1}]', 400), (wrong, 400)):
        status = await post(stage, signed(stage, body=body), body)
        assert status == said, body
    body = b'{"status":"many","body":1,"sourceBody":"?"}'
    assert await post(stage, {**signed(stage, body=body), "upstash-workflow-callback": "true"}, body) == 400
    assert not calls


async def test_a_run_is_started_by_a_plain_request_as_on_other_engines(stage: WireStage, calls: list[int]) -> None:
    assert stage.client.app is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=APP_URL) as http:
        started = await http.post("/guarded", json=7, headers={"Upstash-Workflow-RunId": "order-7"})
        assert (started.status_code, started.json()["workflowRunId"]) == (202, "order-7")
        again = await http.post("/guarded", json=8, headers={"Upstash-Workflow-RunId": "order-7"})
        assert again.json()["deduplicated"] is True
        assert (await http.post("/guarded", content=b"{")).status_code == 400
    await stage.drive()
    assert calls == [7]
    assert (await stage.flow.run("order-7").status()).state == "completed"


async def test_a_run_that_another_program_triggers_by_the_rest_api_makes_first_contact(
    stage: WireStage, calls: list[int]
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.server)) as http:
        answer = await http.post(
            f"http://qstash.test/v2/trigger/{APP_URL}/guarded",
            headers={"Authorization": f"Bearer {stage.token}"},
            content=b"9",
        )
    assert answer.status_code == 201, answer.text
    await stage.drive()
    assert calls == [9]
    run = stage.flow.run(answer.json()["workflowRunId"])
    assert (await run.status()).state == "completed"
