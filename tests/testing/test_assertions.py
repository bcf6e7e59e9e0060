"""Assertions over what happened: each failure is one sentence, and a table of all runs and steps below it."""

from collections.abc import Callable

import pytest

from batchflow import NonRetryable
from batchflow.testing import Environment, FlowEnv
from tests.testing.onboarding import NewUser, Programs

STEPS = ["send-welcome", "three-days", "ask", "send-reminder"]

TABLE = """\
2 runs, at 2023-11-17 22:13:20 UTC (+3d)
/onboarding run-1 failed +3d: StepFailed: step 'send-reminder' failed after 1 attempt: NonRetryable: no such address
    send-welcome   run    done    +0s  ('a@b.c', 'welcome') → 'welcome to a@b.c'
    three-days     sleep  done    +3d
    ask            call   done    +3d  ('https://api.example.com/active') → 200
    send-reminder  run    failed  +3d  ('a@b.c', text='reminder') → NonRetryable: no such address
/approval run-2 waiting
    approve  wait  pending  until +7d"""


WRONG: list[tuple[Callable[[Environment], object], str]] = [
    (lambda env: env.assert_ran("send-reminder", times=2), "ran 1 time, not 2 times"),
    (lambda env: env.assert_ran("send-remnder"), "ran 0 times; did you mean 'send-reminder'?"),
    (lambda env: env.assert_ran("ask", run="run-2"), "step 'ask' ran 0 times"),
    (lambda env: env.assert_not_ran("ask"), "step 'ask' ran 1 time"),
    (lambda env: env.assert_steps("run-2", ["approve"]), "'run-2' are [], not ['approve']"),
    (lambda env: env.assert_steps("run-3", []), "there is no run 'run-3'"),
    (lambda env: env.runs[0].assert_completed(), "run 'run-1' of '/onboarding' is failed: StepFailed: "),
    (lambda env: env.runs[1].result, "run 'run-2' of '/approval' is waiting"),
    (lambda env: env.runs[0].step("asks"), "has not executed step 'asks'; did you mean 'ask'?"),
]


async def two_runs(env: Environment, programs: Programs) -> None:
    env.answer_call("ask", 200)
    env.fail("send-reminder", NonRetryable("no such address"))
    await env.trigger(programs.onboarding, NewUser(email="a@b.c"), run_id="run-1")
    await env.trigger(programs.approval, "x", run_id="run-2")
    await env.advance("3d")


async def test_what_happened_is_a_table(flow_env: FlowEnv, programs: Programs) -> None:
    """As text and as the representation."""
    async with flow_env(programs.flow) as env:
        await two_runs(env, programs)
        assert str(env) == TABLE
        assert TABLE in repr(env)


@pytest.mark.parametrize(("check", "phrase"), WRONG)
async def test_a_failed_assertion_says_what_did_happen(
    flow_env: FlowEnv, programs: Programs, check: Callable[[Environment], object], phrase: str
) -> None:
    """The message comes first, then the table."""
    async with flow_env(programs.flow) as env:
        await two_runs(env, programs)
        with pytest.raises(AssertionError) as caught:
            check(env)
    first, _, rest = str(caught.value).partition("\n")
    assert (phrase in first, rest) == (True, TABLE), first


async def test_assertions_hold_of_what_did_happen(flow_env: FlowEnv, programs: Programs) -> None:
    """For all runs, and for one."""
    async with flow_env(programs.flow) as env:
        await two_runs(env, programs)
        env.assert_ran("ask")
        env.assert_ran("ask", times=1, run="run-1")
        env.assert_not_ran("ask", run=env.runs[1])
        env.assert_steps(env.runs[0], STEPS)
        assert repr(env.runs[1]) == "RunRecord('run-2', waiting, steps=[])"


async def test_a_batch_that_did_not_succeed_says_so(flow_env: FlowEnv, programs: Programs) -> None:
    """With the counts, and its failed items in the table; only the first runs are shown."""
    async with flow_env(programs.flow) as env:
        env.fail("greet:process-item", NonRetryable("no"), times=None)
        batch = await env.run(programs.greet, ids=[f"u{number}" for number in range(21)])
        with pytest.raises(AssertionError) as caught:
            batch.assert_completed()
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("did not succeed: 21 failed")
    assert lines[2].startswith(f"batch greet {batch.id} completed in ")
    assert lines[3].startswith(f"/greet/execute-user {batch.id}.r000000000 of 'u0' failed +")
    assert lines[-1] == "… and 1 more run"


async def test_a_batch_that_has_not_ended_says_so(flow_env: FlowEnv, programs: Programs) -> None:
    """Where its summary is asked for."""
    async with flow_env(programs.flow) as env:
        batch = await env.trigger(programs.greet, ids=["u1"])
        with pytest.raises(
            AssertionError, match=rf"^batch '{batch.id}' of 'greet' has not ended\n0 runs, at 2023-11-14"
        ):
            assert batch.summary
        assert repr(batch) == f"BatchRecord('{batch.id}', not ended)"


async def test_a_cancelled_run_is_told(flow_env: FlowEnv, programs: Programs) -> None:
    """Also when it was waiting, and nothing of it was delivered."""
    async with flow_env(programs.flow) as env:
        run = await env.trigger(programs.counting, "one", delay="1h")
        assert await programs.flow.cancel(run.id) == 1
        await env.drive()
        assert run.state == "cancelled"
