"""Failure URLs: a POST to a real HTTP server for each run that has failed for good, with the fields of QStash."""

import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import jwt
import pytest
from pydantic import BaseModel, SecretStr

from batchflow import Batchflow, NonRetryable, RunFailure, WorkflowContext
from batchflow.core.call import CallRequest
from batchflow.core.secrets import MASK
from batchflow.serve.functions import ServedFunction
from batchflow.testing import FlowEnv
from tests.engine.http_server import serving
from tests.stores.redis_server import Server, served

KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"


class Order(BaseModel):
    """A payload."""

    id: str
    card: SecretStr = SecretStr("4242-4242")


def shop(url: str, **options: Any) -> tuple[Batchflow, ServedFunction[Order, None]]:
    flow = Batchflow("sqlite://")

    @flow.serve("/orders", failure_url=url, retries=2, retry_delay="1s", **options)
    async def order(ctx: WorkflowContext[Order]) -> None:
        raise NonRetryable("closed") if ctx.payload.id == "never" else ValueError("card declined")

    return flow, order


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=[None, "fakeredis", "redis"])
def place(request: Any) -> str | None:
    return request.getfixturevalue("server").url if request.param == "redis" else request.param


async def test_a_failure_url_receives_exactly_the_fields_of_a_failed_run(flow_env: FlowEnv, place: str | None) -> None:
    """Unset ones are left out; secrets of payload and headers are masked; the answer is kept."""
    async with serving(("202 Accepted", b'{"ok":true}')) as hooks:
        flow, order = shop(f"{hooks.url}/failed?token=t0ken", base_url="https://app.example.com/api")
        async with flow_env(flow, store=place, allow_network=True) as env:
            created = int(env.now.timestamp() * 1000)
            run = await env.run(
                order, Order(id="o1"), headers={"X-Tenant": "t1", "Authorization": "Bearer s3cr3t"}, delay="1h"
            )
        (asked,) = hooks.asked
    assert (asked.method, asked.path) == ("POST", "/failed?token=t0ken")
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["upstash-workflow-runid"] == run.id
    assert asked.headers["upstash-message-id"].startswith(f"{run.id}.x")
    assert "upstash-signature" not in asked.headers
    assert "authorization" not in asked.headers
    fields = json.loads(asked.body)
    body = json.loads(b64decode(fields.pop("body")))
    assert json.loads(b64decode(fields.pop("sourceBody"))) == {"id": "o1", "card": MASK}
    assert fields == {
        "status": 500,
        "header": {"Content-Type": ["application/json"]},
        "retried": 2,
        "maxRetries": 2,
        "sourceMessageId": run.id,
        "url": "https://app.example.com/api/orders",
        "method": "POST",
        "sourceHeader": {"X-Tenant": ["t1"], "Authorization": [MASK]},
        "notBefore": created + 3_600_000,
        "createdAt": created,
        "workflowRunId": run.id,
        "dlqId": run.id,
    }
    assert (body["error"], body["message"]) == ("ValueError", "card declined")
    assert "Traceback (most recent call last):" in body["stack"]
    assert list(body) == ["error", "message", "stack"]
    assert run.failure is not None
    assert (run.failure.state, json.loads(run.failure.result or "")) == (
        "succeeded",
        {"status": 202, "body": '{"ok":true}'},
    )


async def test_a_failure_url_is_told_the_retries_of_the_run_and_its_own_status(flow_env: FlowEnv) -> None:
    """Those of the trigger count; `NonRetryable` is 489 after no retry."""
    async with serving() as hooks:
        flow, order = shop(hooks.url)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(order, Order(id="never"), retries=5)
        fields = json.loads(hooks.asked[0].body)
    assert (fields["status"], fields["retried"], fields["maxRetries"]) == (489, 0, 5)
    assert fields["header"]["Upstash-NonRetryable-Error"] == ["true"]
    assert fields["url"] == "/orders"
    assert fields["notBefore"] == fields["createdAt"]


@pytest.mark.parametrize("answer", ["503 Service Unavailable", "404 Not Found", "302 Found\r\nlocation: /elsewhere"])
async def test_a_failure_url_that_does_not_answer_with_2xx_is_called_again(flow_env: FlowEnv, answer: str) -> None:
    """After 1, 4 and 16 s, with the same message id; a redirect is not followed, since a POST would become a GET."""
    async with serving((answer, b"no"), (answer, b"no"), ("200 OK", b"")) as hooks:
        flow, order = shop(f"{hooks.url}/failed")
        async with flow_env(flow, allow_network=True) as env:
            run = await env.run(order, Order(id="never"))
            took = env.now - datetime.fromtimestamp(json.loads(hooks.asked[0].body)["createdAt"] / 1000, UTC)
        assert [(it.method, it.path) for it in hooks.asked] == [("POST", "/failed")] * 3
        assert len({it.headers["upstash-message-id"] for it in hooks.asked}) == 1
        assert [it.headers["upstash-retried"] for it in hooks.asked] == ["0", "1", "2"]
    assert timedelta(seconds=4) < took < timedelta(seconds=7)
    assert run.failure is not None
    assert run.failure.state == "succeeded"


async def test_a_failure_url_that_never_answers_well_is_kept_as_failed(flow_env: FlowEnv, place: str | None) -> None:
    """After 4 attempts, with the last answer, without the token of the URL, and without a dead letter of its own."""
    async with serving(("500 Internal Server Error", b"broken")) as hooks:
        flow, order = shop(f"{hooks.url}/failed?token=t0ken")
        async with flow_env(flow, store=place, allow_network=True) as env:
            run = await env.run(order, Order(id="never"))
            assert [it.id for it in await flow.engine.store.dead_letters()] == [run.id]
        assert len(hooks.asked) == 4
    assert run.failure is not None
    assert run.failure.state == "failed"
    assert (run.failure.error or "").endswith("/failed?… answered 500")
    assert "t0ken" not in (run.failure.error or "")


async def test_a_request_to_a_failure_url_is_signed_where_a_key_is_set(
    flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As QStash signs: HS256 over the URL and the body's hash, valid for five minutes, with the current key."""
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", KEY)
    async with serving() as hooks:
        url = f"{hooks.url}/failed?a=b"
        flow, order = shop(url)
        assert KEY not in repr(flow.settings)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(order, Order(id="never"))
            now = int(env.now.timestamp())
        (asked,) = hooks.asked
    token = asked.headers["upstash-signature"]
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(token, KEY, algorithms=["HS256"], issuer="Upstash", options={"verify_exp": False})
    assert (claims["sub"], claims["iat"], claims["exp"], claims["nbf"]) == (url, now, now + 300, 0)
    assert claims["jti"].startswith("jwt_")
    assert claims["body"].rstrip("=") == urlsafe_b64encode(sha256(asked.body).digest()).decode().rstrip("=")


async def test_the_failure_function_wins_over_a_failure_url(flow_env: FlowEnv) -> None:
    """Both given: the URL is not called."""
    told: list[RunFailure[Order]] = []
    async with serving() as hooks:
        flow, order = shop(hooks.url, failure_function=told.append)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(order, Order(id="never"))
        assert hooks.asked == []
    assert len(told) == 1


async def test_a_test_answers_a_failure_url(flow_env: FlowEnv) -> None:
    """As it answers calls: by the URL, and with what it was sent."""
    flow, order = shop("https://hooks.example.com/failed")
    sent: list[dict[str, Any]] = []

    def read(request: CallRequest) -> None:
        sent.append(json.loads(request.body.content))

    async with flow_env(flow) as env:
        env.answer_call("https://hooks.example.com", body=read)
        run = await env.run(order, Order(id="never"))
        assert run.failure is not None
        assert run.failure.state == "succeeded"
    assert sent[0]["workflowRunId"] == run.id


async def test_a_child_has_the_failure_url_of_its_function(flow_env: FlowEnv) -> None:
    """A header of the trigger cannot name another one."""
    async with serving() as hooks:
        flow, order = shop(f"{hooks.url}/right")

        @flow.serve("/parents")
        async def parent(ctx: WorkflowContext[None]) -> None:
            await ctx.invoke("child", order, Order(id="never"), headers={"batchflow-failure-url": "0 0 http://x/wrong"})

        async with flow_env(flow, allow_network=True) as env:
            run = await env.run(parent, None)
            assert run.state == "failed"
            await env.run(order, Order(id="never"), headers={"batchflow-failure-url": "0 0 http://x/wrong"})
        assert [it.path for it in hooks.asked] == ["/right", "/right"]
        assert all(json.loads(it.body)["sourceHeader"] == {} for it in hooks.asked)


async def test_a_failure_url_is_told_the_schedule_that_started_the_run(flow_env: FlowEnv) -> None:
    """Runs of schedules call failure functions and URLs as others do."""
    async with serving() as hooks:
        flow, _ = shop(hooks.url)
        async with flow_env(flow, allow_network=True) as env:
            await flow.schedules.create("/orders", "0 * * * *", id="hourly", payload={"id": "never"})
            await flow.schedules.trigger("hourly")
            await env.drive()
        (asked,) = hooks.asked
    assert json.loads(asked.body)["scheduleId"] == "hourly"


async def test_a_failure_url_is_called_again_on_demand_and_after_a_resumed_run_fails_again(
    flow_env: FlowEnv, place: str | None
) -> None:
    """Each call has an id of its own, and a resumed run its new number of retries."""
    answers = [("500 Internal Server Error", b"")] * 4 + [("200 OK", b"")]
    async with serving(*answers) as hooks:
        flow, order = shop(hooks.url)
        async with flow_env(flow, store=place, allow_network=True) as env:
            run = await env.run(order, Order(id="never"))
            assert (run.failure and run.failure.state) == "failed"
            await flow.dead_letters.callback(run.id)
            await env.drive()
            assert (run.failure and run.failure.state) == "succeeded"
            await flow.dead_letters.resume(run.id, retries=7)
            await env.drive()
        ids = [it.headers["upstash-message-id"] for it in hooks.asked]
        assert (len(ids), len(set(ids))) == (6, 3)
        assert [json.loads(it.body)["maxRetries"] for it in hooks.asked] == [2] * 5 + [7]
