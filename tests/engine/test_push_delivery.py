"""The delivery of posts: what is sent, logged, retried and told to callbacks."""

import json
import time

import jwt
import pytest
from qstash import Receiver

from batchflow.core.posts import PUSH_DESTINATION
from batchflow.engine.push_client import PushError
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_settings import PushSettings
from batchflow.engine.signing_keys import SigningKeys
from batchflow.testing import FixedEntropy
from batchflow.wire.publish import HOST_PARALLELISM
from tests.engine.http_server import serving
from tests.engine.push_stage import MINUTE, URL, Stage


# A post is sent once, byte for byte and signed with the current key of its tenant, and its log says so.
async def test_a_post_is_delivered_signed_and_logged(stage: Stage) -> None:
    id = await stage.publish(body=b"\xff\x00", Forward_X_User="7", Timeout="30s")
    await stage.drive()
    (asked,) = stage.endpoint.asked
    assert (asked.method, asked.url, asked.body, asked.timeout_ms) == ("POST", URL, b"\xff\x00", 30_000)
    sent = stage.sent()
    assert (sent["x-user"], sent["upstash-message-id"], sent["upstash-retried"]) == ("7", id, "0")
    key = (await SigningKeys(stage.store, FixedEntropy(), stage.clock.now).of("acme")).current
    claims = jwt.decode(sent["upstash-signature"], key, ["HS256"], options={"verify_exp": False, "verify_iat": False})
    assert claims["sub"] == URL
    assert await stage.states(id) == "ACTIVE DELIVERED"
    await stage.drive()
    assert len(stage.endpoint.asked) == 1


# Over a real connection, the official SDK accepts the signature, after a rotation that it does not know of too.
async def test_the_official_sdk_accepts_the_signature() -> None:
    stage = Stage(None, PushSettings.of(allow="loopback"), now=time.time_ns() // 1_000_000 - 10_000)
    async with serving(("200 OK", b"fine")) as server, stage.app:
        keys = SigningKeys(stage.store, FixedEntropy(), stage.clock.now)
        receiver = Receiver(*await keys.of("acme"))
        for rotates in (False, True):
            if rotates:
                await keys.rotate("acme")
                stage.clock.advance("5s")
            id = await stage.publish(f"{server.url}/hook?a=b", b'{"x":1}')
            await stage.drive()
            asked = server.asked[-1]
            signature = asked.headers["upstash-signature"]
            receiver.verify(signature=signature, body=asked.body.decode(), url=f"{server.url}/hook?a=b")
            assert await stage.states(id) == "ACTIVE DELIVERED"
            assert (asked.headers["user-agent"], asked.headers["upstash-message-id"]) == ("Upstash-QStash", id)


# Without Upstash-Timeout an attempt has 15 minutes.
async def test_an_attempt_has_fifteen_minutes(stage: Stage) -> None:
    await stage.publish()
    await stage.drive()
    assert stage.endpoint.asked[0].timeout_ms == 15 * MINUTE


# The log keeps the response: status, headers and body.
async def test_the_log_keeps_the_response(stage: Stage) -> None:
    stage.endpoint.answers = [PushResponse(201, (("content-type", "text/plain"),), b"fine")]
    id = await stage.publish()
    await stage.drive()
    assert (await stage.log(id))[-1] == (
        "DELIVERED",
        {"responseStatus": 201, "responseHeader": {"Content-Type": ["text/plain"]}, "responseBody": "fine"},
    )


# Of a long response the log keeps the beginning, text as text; a callback has all of it.
async def test_the_log_keeps_the_beginning_of_a_long_response(stage: Stage) -> None:
    stage.endpoint.answers = [PushResponse(200, (), "ä".encode() * 10_000 + b"x")]
    id = await stage.publish(body=b"1", Forward_A="1", Callback="https://example.com/done")
    await stage.drive()
    assert (await stage.log(id))[-1][1]["responseBody"] == "ä" * 8_192
    assert len(json.loads(stage.endpoint.asked[-1].body)["body"]) == 26_668
    stage.endpoint.answers = [PushResponse(200, (), b"x" + "ä".encode() * 10_000)]
    id = await stage.publish()
    await stage.drive()
    assert (await stage.log(id))[-1][1]["responseBody"] == "x" + "ä" * 8_191


# Every status but 2xx is tried again by QStash's waits: 12 s, 2 min 28 s, 30 min 8 s. Then the post is dead, its last
# response is in its log, and nothing else comes.
@pytest.mark.parametrize("status", [302, 404, 429, 489, 500])
async def test_a_failed_post_is_tried_again_and_is_a_dead_letter_then(stage: Stage, status: int) -> None:
    stage.endpoint.answers = [PushResponse(status, (("X-Why", "no"),), b"because")]
    begun = stage.clock.now()
    id = await stage.publish()
    await stage.drive(ms=0)
    (_, error), (state, retry) = (await stage.log(id))[1:]
    assert (error["error"], error["responseStatus"]) == (f"https://example.com/hook?… answered {status}", status)
    assert (state, retry) == ("RETRY", {"nextDeliveryTime": begun + 12_182})
    await stage.drive()
    assert [stage.sent(it)["upstash-retried"] for it in range(4)] == ["0", "1", "2", "3"]
    assert len(stage.endpoint.asked) == 4
    assert await stage.states(id) == "ACTIVE ERROR RETRY " * 3 + "ACTIVE ERROR FAILED"
    detail = (await stage.log(id))[-1][1]
    assert (detail["responseStatus"], detail["responseBody"]) == (status, "because")
    assert detail["responseHeader"] == {"X-Why": ["no"]}
    assert await stage.dead() == [id]


# Retry-After and its family decide the wait, up to a day, and use up an attempt.
@pytest.mark.parametrize(
    ("header", "value", "wait"),
    [("Retry-After", "7", 7_000), ("x-ratelimit-reset", "2m1s", 121_000), ("retry-after", "86401", 12_182)],
)
async def test_a_response_decides_its_retry(stage: Stage, header: str, value: str, wait: int) -> None:
    stage.endpoint.answers = [PushResponse(429, ((header, value),)), PushResponse(200)]
    begun = stage.clock.now()
    id = await stage.publish(Retries="1")
    await stage.drive()
    assert dict(await stage.log(id))["RETRY"] == {"nextDeliveryTime": begun + wait}
    assert (stage.clock.now() - begun, stage.sent()["upstash-retried"]) == (wait, "1")


# A post's own retries and expression decide else.
async def test_a_post_decides_its_retries(stage: Stage) -> None:
    stage.endpoint.answers = [PushResponse(500)]
    begun = stage.clock.now()
    id = await stage.publish(Retries="2", Retry_Delay="1000 * (1 + retried)")
    await stage.drive()
    assert (len(stage.endpoint.asked), stage.clock.now() - begun) == (3, 3_000)
    assert await stage.dead() == [id]


# 489 with Upstash-NonRetryable-Error is final.
async def test_a_non_retryable_response_is_final(stage: Stage) -> None:
    stage.endpoint.answers = [PushResponse(489, (("upstash-nonretryable-error", "true"),))]
    id = await stage.publish()
    await stage.drive()
    assert await stage.states(id) == "ACTIVE ERROR FAILED"
    assert await stage.dead() == [id]


# Without a response the status is 503, or 504 after a timeout, and the body is the sentence.
async def test_a_post_without_a_response_is_tried_again(stage: Stage) -> None:
    stage.endpoint.answers = [PushError("no answer of https://example.com", status=504), PushResponse(200)]
    id = await stage.publish()
    await stage.drive()
    assert await stage.states(id) == "ACTIVE ERROR RETRY ACTIVE DELIVERED"
    error = (await stage.log(id))[1][1]
    assert (error["responseStatus"], error["error"]) == (504, "no answer of https://example.com")
    assert error["responseBody"] == error["error"]


# An address that is refused is final.
async def test_a_refused_address_is_final(stage: Stage) -> None:
    stage.endpoint.answers = [PushError("its address is not public", final=True)]
    id = await stage.publish()
    await stage.drive()
    assert await stage.states(id) == "ACTIVE ERROR FAILED"


# A callback is a post of its own, which tells of the response; its headers are those of the publish request.
async def test_a_callback_tells_of_the_response(stage: Stage) -> None:
    done = "https://example.com/done"
    stage.endpoint.answers = [PushResponse(201, (("x-a", "b"),), b"fine"), PushResponse(200)]
    id = await stage.publish(Callback=done, Failure_Callback="https://example.com/failed", Callback_Forward_Key="k")
    await stage.drive()
    first, callback = stage.endpoint.asked
    assert (first.url, callback.url) == (URL, done)
    told = json.loads(callback.body)
    assert (told["status"], told["header"], told["body"]) == (201, {"X-A": ["b"]}, "ZmluZQ==")
    assert (told["sourceMessageId"], told["url"], told["retried"]) == (id, URL, 0)
    sent = stage.sent()
    assert (sent["key"], sent["content-type"]) == ("k", "application/json")
    assert await stage.states(sent["upstash-message-id"]) == "ACTIVE DELIVERED"


# A post that has failed for good tells its callback and its failure callback, once each.
async def test_a_failure_is_told_to_both_callbacks(stage: Stage) -> None:
    done, failed = "https://example.com/done", "https://example.com/failed"
    stage.endpoint.by_url = {URL: PushResponse(500, (), b"no")}
    id = await stage.publish(Callback=done, Failure_Callback=failed, Retries="1")
    await stage.drive()
    assert [it.url for it in stage.endpoint.asked[:2]] == [URL, URL]
    told = {it.url: json.loads(it.body) for it in stage.endpoint.asked[2:]}
    assert sorted(told) == [done, failed]
    assert len(stage.endpoint.asked) == 4
    assert (told[failed]["dlqId"], told[failed]["status"], told[failed]["retried"]) == (id, 500, 1)
    assert "dlqId" not in told[done]


# Of more posts than a worker can have, only so many are under way to one host.
async def test_a_host_that_answers_slowly_leaves_room_for_the_posts_to_others(stage: Stage) -> None:
    for _ in range(HOST_PARALLELISM + 50):
        await stage.publish("https://slow.example.com/")
    other = await stage.publish("https://other.example.com/")
    store = stage.app.engine.store
    await store.register("w1", 30_000)
    claimed = await store.claim("w1", [PUSH_DESTINATION], 1_000)
    assert len(claimed.claims) == HOST_PARALLELISM + 1
    assert other in {claim.id for claim in claimed.claims}
