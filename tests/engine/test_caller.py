"""Calls over real HTTP: what is sent, what comes back, when it is tried again."""

import gzip
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from batchflow import Batchflow, FlowControl, NoParams, RetryPolicy, StepFailed, WorkflowContext
from batchflow.core.call import Body
from batchflow.errors import ConfigurationError, UnserializableError
from batchflow.serve.calls import CallResponse
from batchflow.testing import ManualClock, drive
from tests.engine.http_server import serving
from tests.waiting import DEADLINE_S, wait_until

JSON = "200 OK\r\ncontent-type: application/json"


class Answer(BaseModel):
    text: str


class Question(BaseModel):
    about: str


CLOCK = ManualClock()


@pytest.fixture
async def flow() -> AsyncGenerator[Batchflow]:
    app = Batchflow("sqlite://", clock=CLOCK, worker=False)
    await app.start()
    yield app
    await app.stop()


async def called(flow: Batchflow, ask: Callable[[WorkflowContext[NoParams]], Awaitable[Any]]) -> Any:
    """The result of one call in a run."""

    @flow.serve("/calls")
    async def calls(ctx: WorkflowContext[NoParams]) -> Any:
        return await ask(ctx)

    run = await calls.trigger(NoParams())
    await drive(flow, CLOCK)
    return await run.wait()


async def test_a_call_sends_json_and_gives_status_headers_and_a_typed_body(flow: Batchflow) -> None:
    async with serving((f"{JSON}\r\nx-thing: a\r\nx-thing: b", b'{"text": "hi"}')) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> list[Any]:
            answer = await ctx.call("ask", f"{server.url}/chat", body=Question(about="x"), response=Answer)
            return [answer.status, answer.headers["x-thing"], answer.body.text, answer.ok, repr(answer)]

        assert await called(flow, ask) == [200, "a, b", "hi", True, "CallResponse(200, 14 bytes)"]
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/chat", b'{"about":"x"}')
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("body", "sent", "kind"),
    [("häl", "häl".encode(), "text/plain; charset=utf-8"), (b"\xff\x00", b"\xff\x00", "application/octet-stream")],
)
async def test_text_and_bytes_are_sent_as_they_are(flow: Batchflow, body: Any, sent: bytes, kind: str) -> None:
    async with serving(("200 OK\r\ncontent-type: image/png", b"\x89PNG\xff")) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> bool:
            answer = await ctx.call("ask", server.url, body=body, method="put", headers={"X-Mine": "1"})
            return answer.content == b"\x89PNG\xff"

        assert await called(flow, ask)
    (asked,) = server.asked
    assert (asked.method, asked.body, asked.headers["content-type"]) == ("PUT", sent, kind)
    assert asked.headers["x-mine"] == "1"


async def test_an_answer_that_is_not_2xx_is_a_result(flow: Batchflow) -> None:
    async with serving(("404 Not Found", b"no such thing")) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> list[Any]:
            answer = await ctx.call("ask", server.url)
            return [answer.status, answer.ok, answer.body]

        assert await called(flow, ask) == [404, False, "no such thing"]
    assert [asked.method for asked in server.asked] == ["GET"]


async def test_retries_end_with_the_first_2xx_or_the_last_answer(flow: Batchflow) -> None:
    """Each attempt bears the same idempotency key, and a service that says when is asked then."""
    busy = ("503 Busy\r\nretry-after: 30", b"")
    async with serving(busy, ("500 Oops", b""), ("200 OK", b"yes")) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> list[Any]:
            begun = ctx.now()
            answer = await ctx.call("ask", server.url, retries=3, retry_delay="5s")
            return [answer.text, (ctx.now() - begun).total_seconds()]

        assert await called(flow, ask) == ["yes", 35]
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1


async def test_a_call_without_any_answer_fails_its_step(flow: Batchflow) -> None:
    async with serving(cut=True) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> str:
            try:
                await ctx.call("ask", server.url, retries=1)
            except StepFailed as error:
                return str(error)
            return "answered"

        said = await called(flow, ask)
    assert said.startswith(f"step 'ask' failed after 2 attempts: no answer of {server.url}: RemoteProtocolError")
    assert len(server.asked) == 2


async def test_a_call_that_takes_too_long_is_given_up(flow: Batchflow) -> None:
    async with serving(silent=True) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> str:
            try:
                await ctx.call("ask", server.url, timeout="50ms")
            except StepFailed as error:
                return error.error
            return "answered"

        assert await called(flow, ask) == f"no answer of {server.url} within 50ms"


async def test_a_2xx_answer_of_another_shape_is_an_error_that_names_it(flow: Batchflow) -> None:
    async with serving((JSON, b'{"txt": 1}')) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> str:
            try:
                await ctx.call("ask", server.url, response=Answer)
            except UnserializableError as error:
                return str(error)
            return "fits"

        assert await called(flow, ask) == "the answer of call 'ask' (200) is not a valid Answer: text: Field required"


@pytest.mark.parametrize(
    ("url", "options", "sentence"),
    [
        ("example.com", {}, "call 'a' cannot go to 'example.com'; write an absolute URL"),
        ("http://x", {"method": "FETCH"}, "call 'a' cannot have the method 'FETCH'"),
        ("http://x", {"timeout": "3h"}, "call 'a' cannot take 3h; write a timeout of up to 2h"),
        ("http://x", {"flow_control": FlowControl(rate=1)}, "names no key"),
        ("http://x", {"body": object()}, "the body of call 'a' has no JSON form"),
        ("http://x:0/", {}, "whose port is 0"),
        ("http://exa mple.com/", {}, "whose host is not valid"),
        ("http://a..b/", {}, "whose host or port is not valid"),
        (f"http://x/{'a' * 70_000}", {}, "which has 70,009 characters"),
        ("http://x\n.com/", {}, "call 'a' cannot go to"),
        ("http://x:99999/?token=s3cr3t", {}, "call 'a' cannot go to 'http://x:99999/?…'"),
        ("me:s3cr3t@x.com", {}, "call 'a' cannot go to 'x.com'"),
        ("http://me:s3/cr3t@x.com/", {}, "call 'a' cannot go to 'http://x.com/'"),
        ("http://x", {"headers": {"x-tok en": "s3cr3t"}}, "'headers' has 'x-tok en', which is not a header name"),
        ("http://x", {"headers": {"": "s3cr3t"}}, "'headers' has '', which is not a header name"),
        ("http://x", {"headers": {"x-token": "s3cr3t\n"}}, "line break or control character in 'x-token'"),
        ("http://x", {"headers": {"x-token": "s3cr3t\0"}}, "line break or control character in 'x-token'"),
        ("http://x", {"headers": {"x-token": "s3cr3t 日本"}}, "characters in 'x-token' that no header can have"),
        ("http://x", {"headers": {"Content-Length": "7"}}, "'Content-Length', which does not fit the body"),
        ("http://x", {"headers": {"transfer-encoding": "chunked"}}, "which does not fit the body"),
    ],
)
async def test_a_wrong_call_says_what_is_wrong(
    flow: Batchflow, url: str, options: dict[str, Any], sentence: str
) -> None:
    async def tell(ctx: WorkflowContext[NoParams]) -> str:
        try:
            await ctx.call("a", url, **options)
        except (ConfigurationError, UnserializableError) as error:
            return str(error)
        return "right"

    said = await called(flow, tell)
    assert sentence in said
    assert "s3" not in said


async def test_the_worker_is_free_while_calls_wait() -> None:
    """A call that is under way takes no place of what works: with one place, a run goes on beside ten calls."""
    flow = Batchflow("sqlite://", concurrency=1, grace=timedelta(0))

    @flow.serve("/asks", retry=RetryPolicy.none())
    async def asks(ctx: WorkflowContext[NoParams]) -> int:
        answer: CallResponse[Any] = await ctx.call("ask", server.url)
        return answer.status

    @flow.serve("/works")
    async def works(ctx: WorkflowContext[NoParams]) -> str:
        return await ctx.run("work", lambda: "worked")

    async with serving(silent=True) as server, flow:
        await asks.trigger_many([NoParams()] * 10)
        await wait_until(lambda: len(server.asked) == 10, description="ten calls are under way")
        run = await works.trigger(NoParams())
        assert await run.wait(timeout=DEADLINE_S) == "worked"


def test_an_answer_is_kept_as_it_came() -> None:
    """Text as text, anything else in base64: the journal is JSON."""
    assert Body.of(b"abc") == Body(text="abc")
    assert Body.of(b"\xff").base64
    assert Body.of(b"\xff").content == b"\xff"
    assert json.loads('"\\u0000"') == Body.of(b"\x00").text


@pytest.mark.parametrize(
    ("head", "content", "size"),
    [
        ("200 OK", b"x" * 1_500_000, "1,500,000"),
        ("200 OK\r\ncontent-encoding: gzip", gzip.compress(bytes(50_000_000)), r"at least [\d,]+"),
        ("200 OK", b'"' * 600_000, r"1,200,\d\d\d"),
    ],
    ids=["declared", "compressed", "escaped"],
)
async def test_an_answer_that_is_too_large_fails_the_call_at_once(
    flow: Batchflow, head: str, content: bytes, size: str
) -> None:
    """No more of it is read than is allowed, and no other attempt is made; what counts is the JSON of it."""
    async with serving((head, content)) as server:

        async def ask(ctx: WorkflowContext[NoParams]) -> str:
            with pytest.raises(StepFailed) as caught:
                await ctx.call("ask", server.url, retries=3)
            return str(caught.value)

        told = await called(flow, ask)
    assert re.fullmatch(
        rf"step 'ask' failed after 1 attempt: the answer of call 'ask' \({server.url}\): {size} bytes are more than "
        r"BATCHFLOW_MAX_VALUE allows \(1,048,576\); store it elsewhere and pass a reference on, or raise the setting",
        told,
    )
    assert len(server.asked) == 1
