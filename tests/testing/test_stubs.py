"""Stand-ins for steps and calls: they take the place of what they name, and one that is never used is an error."""

import socket

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.core.call import CallRequest
from batchflow.errors import ConfigurationError, NonRetryable
from batchflow.testing import FlowEnv, Unanswered, Unused
from tests.testing.onboarding import OUTBOX, NewUser, Programs

USER = NewUser(email="a@b.c")


async def test_a_step_is_answered_with_a_value(flow_env: FlowEnv, programs: Programs) -> None:
    """Its function is not called."""
    async with flow_env(programs.flow) as env:
        env.answer("count", 7)
        run = await env.run(programs.counting, "one")
    assert run.result == 7
    assert [mail.text for mail in OUTBOX] == ["7 words"]


async def test_a_step_is_answered_by_a_function(flow_env: FlowEnv, programs: Programs) -> None:
    """Sync or async, which is given the step's arguments."""

    async def send(to: str, text: str) -> str:
        return f"{to}!"

    async with flow_env(programs.flow) as env:
        env.answer("count", len)
        env.answer("tell", send)
        run = await env.run(programs.counting, "one")
    assert (run.result, run.step("tell").output, OUTBOX) == (3, "the boss!", [])


async def test_an_answer_of_another_type_fails_the_step(flow_env: FlowEnv, programs: Programs) -> None:
    """It passes through the step's own type, as a result does."""
    async with flow_env(programs.flow) as env:
        env.answer("tell", object())
        run = await env.run(programs.counting, "one")
    assert run.state == "failed"
    assert "step 'tell'" in (run.error or "")


async def test_an_answer_can_be_for_one_run(flow_env: FlowEnv, programs: Programs) -> None:
    """Which goes before that for all of them."""
    async with flow_env(programs.flow) as env:
        first, second = await env.trigger(programs.counting, "one"), await env.trigger(programs.counting, "one")
        env.answer("count", 7)
        env.answer("count", 8, run=second)
        await env.drive()
    assert (first.result, second.result) == (7, 8)


async def test_items_of_a_batch_are_answered(flow_env: FlowEnv, programs: Programs) -> None:
    """Their steps have names as well."""
    async with flow_env(programs.flow) as env:
        env.answer("greet:process-item", str.title)
        batch = await env.run(programs.greet, ids=["ada"])
    assert batch.results == {"ada": "Ada"}


async def test_a_step_fails_as_often_as_asked_for(flow_env: FlowEnv, programs: Programs) -> None:
    """And is then executed; the waits between are virtual."""
    async with flow_env(programs.flow) as env:
        env.fail("send-welcome", ConnectionError("away"), times=2)
        env.answer_call("ask", 404)
        run = await env.run(programs.onboarding, USER)
        env.assert_ran("send-welcome", times=3)
    assert run.result == "nobody knows"
    assert [mail.text for mail in OUTBOX] == ["welcome"]


async def test_a_step_fails_always(flow_env: FlowEnv, programs: Programs) -> None:
    """Until its attempts are used up; a class of errors will do."""
    async with flow_env(programs.flow) as env:
        env.fail("send-welcome", ConnectionError, times=None)
        run = await env.run(programs.onboarding, USER)
        env.assert_ran("send-welcome", times=4)
    assert run.state == "failed"
    assert "failed after 4 attempts: ConnectionError" in (run.error or "")


async def test_a_final_failure_is_not_repeated(flow_env: FlowEnv, programs: Programs) -> None:
    """What the error means, it means here too."""
    async with flow_env(programs.flow) as env:
        env.fail("send-welcome", NonRetryable("no such address"))
        run = await env.run(programs.onboarding, USER)
        env.assert_ran("send-welcome", times=1)
    assert run.state == "failed"


async def test_a_failure_goes_before_an_answer(flow_env: FlowEnv, programs: Programs) -> None:
    """In whatever order they are arranged."""
    async with flow_env(programs.flow) as env:
        env.answer("send-welcome", "sent")
        env.fail("send-welcome", ConnectionError("away"))
        env.answer_call("ask", 404)
        run = await env.run(programs.onboarding, USER)
        env.assert_ran("send-welcome", times=2)
    assert (run.step("send-welcome").output, OUTBOX) == ("sent", [])


async def test_a_call_is_answered_by_step_or_url(flow_env: FlowEnv, programs: Programs) -> None:
    """The name of the step, or how the URL begins."""
    for target in ("ask", "https://api.example.com/"):
        async with flow_env(programs.flow) as env:
            env.answer_call(target, 200, {"active": True}, {"X-Trace": "t1"})
            run = await env.run(programs.onboarding, USER)
        answer = run.step("ask").output
        assert (answer.status, answer.body, answer.headers["x-trace"]) == (200, {"active": True}, "t1")


@pytest.mark.parametrize(("body", "content"), [(None, b""), (b"\xff", b"\xff"), ("text", b"text"), ([1], b"[1]")])
async def test_a_call_is_answered_with_any_body(
    flow_env: FlowEnv, programs: Programs, body: object, content: bytes
) -> None:
    """Text and bytes as they are, anything else as JSON."""
    async with flow_env(programs.flow) as env:
        env.answer_call("ask", 200, body)
        run = await env.run(programs.onboarding, USER)
    assert run.step("ask").output.content == content


async def test_a_call_is_answered_by_a_function(flow_env: FlowEnv, programs: Programs) -> None:
    """Which is given the request."""

    def echo(request: CallRequest) -> str:
        return f"{request.method} {request.body.text}"

    async with flow_env(programs.flow) as env:
        env.answer_call("ask", 200, echo)
        run = await env.run(programs.onboarding, USER)
    assert run.step("ask").output.text == 'POST {"email":"a@b.c"}'


async def test_a_call_is_repeated_by_its_policy(flow_env: FlowEnv, programs: Programs) -> None:
    """A failure and a busy answer first, then a good one."""
    async with flow_env(programs.flow) as env:
        env.fail_call("ask", "no route")
        env.answer_call("ask", 503, times=1)
        env.answer_call("ask", 200)
        run = await env.run(programs.onboarding, USER)
    assert run.result == "welcomed"


async def test_a_call_without_any_answer_fails_its_step(flow_env: FlowEnv, programs: Programs) -> None:
    """Once its attempts are used up."""
    async with flow_env(programs.flow) as env:
        env.fail_call("ask", times=None)
        run = await env.run(programs.onboarding, USER)
    assert run.state == "failed"
    assert "failed after 3 attempts: " in (run.error or "")


async def test_an_unanswered_call_is_named(flow_env: FlowEnv, programs: Programs) -> None:
    """No test goes over the network unawares."""
    async with flow_env(programs.flow) as env:
        with pytest.raises(Unanswered, match=r"call 'ask' \(POST https://api\.example\.com/active\) has no answer"):
            await env.run(programs.onboarding, USER)


async def test_the_network_can_be_allowed(flow_env: FlowEnv) -> None:
    """A call is then made; here to a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        calling = Batchflow("sqlite://")

        @calling.serve("/calling")
        async def call(ctx: WorkflowContext[str]) -> int:
            return (await ctx.call("ask", ctx.payload)).status

        async with flow_env(calling, allow_network=True) as env:
            run = await env.run(call, url)
    assert run.state == "failed"
    assert f"no answer of {url}: ConnectError" in (run.error or "")


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("send-welcom", "did you mean 'send-welcome'?"),
        ("ask", "'ask' is a call; write env.answer_call('ask', …)"),
        ("three-days", "'three-days' is a step of kind sleep"),
    ],
)
async def test_an_unused_answer_is_an_error(flow_env: FlowEnv, programs: Programs, name: str, phrase: str) -> None:
    """At the end, with what may have been meant."""
    with pytest.raises(Unused) as caught:
        async with flow_env(programs.flow) as env:
            env.answer_call("ask", 200)
            await env.run(programs.onboarding, USER)
            env.answer(name, "x")
    assert phrase in str(caught.value).splitlines()[0]


async def test_an_answer_that_comes_too_late_is_an_error(flow_env: FlowEnv, programs: Programs) -> None:
    """The step was executed without it."""
    with pytest.raises(Unused, match=r"^env.fail\('count', …\) was never used: 'count' was executed before, or in"):
        async with flow_env(programs.flow) as env:
            await env.run(programs.counting, "one")
            env.fail("count", ValueError)


async def test_an_unused_answer_to_a_call_is_an_error(flow_env: FlowEnv, programs: Programs) -> None:
    """With the nearest call, or where a step was meant."""
    with pytest.raises(Unused) as caught:
        async with flow_env(programs.flow) as env:
            env.answer_call("ask", 200)
            await env.run(programs.onboarding, USER)
            env.answer_call("asks", 200)
            env.fail_call("send-welcome")
    for_call, for_step, *_ = str(caught.value).splitlines()
    assert "no call 'asks' was made; did you mean 'ask'?" in for_call
    assert "write env.fail('send-welcome', …)" in for_step


async def test_an_answer_that_was_replaced_is_none(flow_env: FlowEnv, programs: Programs) -> None:
    """The latest one holds, and the former need not be used."""
    async with flow_env(programs.flow) as env:
        env.answer("count", 1)
        env.answer("count", 2)
        assert (await env.run(programs.counting, "one")).result == 2
    assert [mail.text for mail in OUTBOX] == ["2 words"]


async def test_times_count_from_one(flow_env: FlowEnv, programs: Programs) -> None:
    """Less is refused at once."""
    async with flow_env(programs.flow) as env:
        with pytest.raises(ConfigurationError, match="'times' cannot be 0"):
            env.fail("count", ValueError, times=0)
        await env.run(programs.approval, "x")
