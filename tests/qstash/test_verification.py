"""Only QStash reaches the functions of an app, and only with requests that it has signed for them, lately."""

from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import jwt
import pytest
from pydantic_core import to_json

from batchflow import WorkflowContext
from batchflow.core.ports import Clock
from batchflow.core.run import Step
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.serve.functions import ServedFunction
from batchflow.wire.signature import SIGNATURE, sign
from batchflow.wire.submissions import Address, outcome_submission, wire_id
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


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_runs_go_on_while_clocks_differ_by_the_tolerance(minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage = WireStage(clock_tolerance="10m")
    stage.app_clock = ShiftedClock(stage.clock, minutes * MINUTE)
    async with stage:
        steps = serve_steps(stage, calls := Counter[str]())
        await stage.open()
        run = await steps.trigger(None)
        await stage.drive()
        assert await run.wait() == "done"
        assert calls == {"first": 1, "second": 1}
        assert set(stage.client.answers) == {200}


async def test_without_a_tolerance_an_app_whose_clock_is_ahead_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage = WireStage()
    stage.app_clock = ShiftedClock(stage.clock, 10 * MINUTE)
    async with stage:
        steps = serve_steps(stage, calls := Counter[str]())
        await stage.open()
        run = await steps.trigger(None)
        await stage.drive()
        assert (await run.status()).state == "failed"
        assert not calls
        assert set(stage.client.answers) == {401}


async def test_a_true_request_that_is_sent_again_executes_no_recorded_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has read it may send it with other headers, which the signature does not cover; later it is refused."""
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(clock_tolerance="1m") as stage:
        steps = serve_steps(stage, calls := Counter[str]())
        await stage.open()
        run = await steps.trigger(None)
        await stage.drive(ms=MINUTE)
        request = stage.client.requests[0]
        headers = {name.lower(): value for name, value in request.headers}
        assert await post(stage, headers, request.body, "/steps") == 200
        assert await post(stage, {**headers, "upstash-workflow-runid": "wfr_other"}, request.body, "/steps") == 200
        written_otherwise = {**headers, SIGNATURE.lower(): headers[SIGNATURE.lower()] + "="}
        assert await post(stage, written_otherwise, request.body, "/steps") == 200
        assert await post(stage, headers, request.body + b" ", "/steps") == 401
        assert await post(stage, headers, request.body, "/other") == 401
        await stage.drive(ms=10 * MINUTE)
        assert await post(stage, headers, request.body, "/steps") == 401
        assert calls == {"first": 1}
        await stage.drive()
        assert (calls, await run.wait()) == ({"first": 1, "second": 1}, "done")


async def test_the_tokens_and_keys_of_others_reach_no_run(stage: WireStage) -> None:
    steps = serve_steps(stage, calls := Counter[str]())
    await stage.open()
    run = await steps.trigger(None)
    await stage.drive(ms=MINUTE)
    headers = {"authorization": f"Bearer {await stage.server.tokens.create('other')}"}
    async with httpx.AsyncClient(transport=stage.transport, base_url="http://qstash.test", headers=headers) as http:
        keys = (await http.get("/v2/keys")).json()
        for key in ("current", "next"):
            others = signed(stage, key=keys[key], url=f"{APP_URL}/steps")
            assert await post(stage, others, path="/steps") == 401
        address = Address(wire_id(run.id), f"{APP_URL}/steps")
        forged = outcome_submission(address, Step(3, "second", "run", "done", value='"forged"'), 1)
        assert (await http.post(forged.path, headers=forged.headers, content=forged.body)).status_code == 400
        assert (await http.get(f"/v2/workflows/runs/{address.run}")).status_code == 404
        await http.delete(f"/v2/workflows/runs/{address.run}")
    await stage.drive()
    assert (await run.wait(), calls) == ("done", {"first": 1, "second": 1})


class ShiftedClock:
    """A clock that is ahead of another one."""

    def __init__(self, clock: Clock, ahead_ms: int) -> None:
        self._clock = clock
        self._ahead_ms = ahead_ms

    def now(self) -> int:
        return self._clock.now() + self._ahead_ms


def serve_steps(stage: WireStage, calls: Counter[str]) -> ServedFunction[None, str]:
    """A function with two steps, and an hour between them; and another one."""

    @stage.flow.serve("/steps")
    async def steps(ctx: WorkflowContext[None]) -> str:
        async def step(name: str) -> None:
            calls[name] += 1

        await ctx.run("first", step, "first")
        await ctx.sleep("sleep", "1h")
        await ctx.run("second", step, "second")
        return "done"

    @stage.flow.serve("/other")
    async def other(ctx: WorkflowContext[None]) -> None:
        calls["other"] += 1

    return steps


REFUSED: Mapping[str, Callable[[WireStage], dict[str, str]]] = {
    "unsigned": lambda _: {},
    "no JWT": lambda _: {SIGNATURE: "abc"},
    "a foreign key": lambda stage: signed(stage, key="sig_of_somebody_else"),
    "another URL": lambda stage: signed(stage, url=f"{APP_URL}/other"),
    "another body": lambda stage: signed(stage, body=b"[]"),
    "replayed after its time": lambda stage: signed(stage, ago=16 * MINUTE),
}


@pytest.mark.parametrize("missing", ["exp", "nbf", "sub", "iss", "body"])
async def test_a_signature_that_leaves_out_a_claim_starts_nothing(
    stage: WireStage, calls: list[int], missing: str
) -> None:
    claims = jwt.decode(signed(stage)[SIGNATURE], options={"verify_signature": False})
    del claims[missing]
    assert await post(stage, {SIGNATURE: jwt.encode(claims, stage.keys["current"], algorithm="HS256")}) == 401
    assert not calls


@pytest.mark.parametrize("how", REFUSED)
async def test_another_request_starts_nothing_and_is_told_nothing(stage: WireStage, calls: list[int], how: str) -> None:
    assert await post(stage, REFUSED[how](stage)) == 401
    for name in ("upstash-workflow-callback", "upstash-workflow-failure-callback", "upstash-workflow-unknown-sdk"):
        assert await post(stage, {**REFUSED[how](stage), name: "true"}) == 401
    assert not calls


TOLD = [
    "it has no signature",
    "it is not signed with the signing keys that this app has",
    f"it is signed for {APP_URL}/other, and this app takes it for {APP_URL}/guarded; APP_URL has to be the URL that "
    f"QStash calls",
    "its body is not the one that was signed; a proxy may have changed it",
    "its signature is not valid now; it was sent again or late, or the clocks of the app and of QStash differ by "
    "more than clock_tolerance",
]


async def test_the_log_says_why_requests_were_refused_each_reason_once(
    stage: WireStage, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner has to find a wrong setting, and strangers may not fill the log."""
    for _ in range(3):
        for refused in REFUSED.values():
            await post(stage, refused(stage))
    said = [it.getMessage().partition("reason=")[2] for it in caplog.records if "was refused" in it.getMessage()]
    assert [it.strip("'\"") for it in said] == TOLD
    assert not calls


async def test_the_log_does_not_show_the_query_for_which_a_request_was_signed(
    stage: WireStage, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert await post(stage, signed(stage, url=f"{APP_URL}/other?key=s3cret")) == 401
    assert f"it is signed for {APP_URL}/other?…, and" in caplog.text
    assert "s3cret" not in caplog.text
    assert not calls


async def test_the_body_of_a_request_that_nobody_has_signed_is_not_read(stage: WireStage, calls: list[int]) -> None:
    """Deliveries may be large."""
    assert stage.client.app is not None
    read: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            read.append(number)
            yield b"x"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=APP_URL) as http:
        for signature in ({}, {SIGNATURE: "a.b.c"}, signed(stage, key="sig_of_somebody_else")):
            answer = await http.post("/guarded", headers={**OF_QSTASH, **signature}, content=chunks())
            assert answer.status_code == 401
    assert (read, calls) == ([], [])


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
    for record in (
        b'{"stepId":1,"stepType":"Invoke","out":"[]"}',
        b'{"stepId":1,"stepType":"Call","out":"{\\"status\\":1e999}"}',
    ):
        entry = {"messageId": "b", "body": b64encode(record).decode(), "callType": "step"}
        body = to_json([{"messageId": "a", "body": "MQ==", "callType": "step"}, entry])
        assert await post(stage, signed(stage, body=body), body) == 400, record
    for body in (b'{"status":"many","body":1,"sourceBody":"?"}', b'{"status":1e999}'):
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


async def test_what_somebody_publishes_to_a_function_starts_one_run_however_often_qstash_repeats_it(
    stage: WireStage, calls: list[int]
) -> None:
    answers: list[int] = []

    def lose_the_first(_: PushRequest, response: PushResponse) -> PushResponse:
        answers.append(response.status)
        return PushResponse(502) if len(answers) == 1 else response

    stage.client.after = lose_the_first
    async with stage.console() as console:
        for payload in (b"5", b"6"):
            answer = await console.post(f"/v2/publish/{APP_URL}/guarded", content=payload)
            assert answer.status_code == 201, answer.text
    await stage.drive()
    assert answers.count(202) == 3
    assert sorted(calls) == [5, 6]


async def test_what_somebody_publishes_needs_the_token_of_the_app(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QStash signs the calls of runs too, and a user may have chosen their URL."""
    monkeypatch.setenv("BATCHFLOW_TOKEN", "0123456789abcdef")
    stage.flow = stage.again()
    payloads: list[int] = []

    @stage.flow.serve("/guarded")
    async def guarded(ctx: WorkflowContext[int]) -> None:
        payloads.append(ctx.payload)

    await stage.open()
    async with stage.console() as console:
        url, token = f"/v2/publish/{APP_URL}/guarded", "Bearer 0123456789abcdef"
        await console.post(url, content=b"5", headers={"Upstash-Forward-Authorization": token, "Upstash-Retries": "0"})
        await console.post(url, content=b"6", headers={"Upstash-Retries": "0"})
    await stage.drive()
    assert sorted(stage.client.answers) == [200, 202, 401]
    assert payloads == [5]
