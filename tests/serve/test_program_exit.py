"""Ways out of a step or a function that would take more along than they should."""

import asyncio
import functools
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow.core.retry import RetryPolicy
from batchflow.errors import StepFailed
from batchflow.serve.context import WorkflowContext
from batchflow.serve.failure import is_program_exit
from tests.serve.store_model import Calls, Model, endpoint, first_line

Context = WorkflowContext[Any]
TWICE = RetryPolicy(retries=1, first="1s")


class Abort(BaseException):
    """No `Exception`, and nobody's business."""


class Mute(BaseException):
    """One that cannot be shown."""

    def __str__(self) -> str:
        raise GeneratorExit

    __repr__ = __str__


LEAVING: dict[type[BaseException], str] = {
    SystemExit: "SystemExit: 3",
    KeyboardInterrupt: "KeyboardInterrupt: 3",
    GeneratorExit: "GeneratorExit: 3",
    Abort: "Abort: 3",
    Mute: "Mute: (its text cannot be read: GeneratorExit)",
}


def leave(kind: type[BaseException]) -> None:
    raise kind(3)


def leave_a_generator(kind: type[BaseException]) -> None:
    def generate() -> Iterator[int]:
        yield 1

    generator: Any = generate()
    next(generator)
    generator.throw(kind(3))


async def async_leave(kind: type[BaseException]) -> None:
    await asyncio.sleep(0)
    leave_a_generator(kind)


@pytest.mark.parametrize("kind", LEAVING)
@pytest.mark.parametrize("step", [leave, leave_a_generator, async_leave])
async def test_whatever_leaves_a_step_fails_it(step: Any, kind: type[BaseException]) -> None:
    """Also what would end the worker, and the next one that takes the run; it is tried again by the policy."""
    caught: list[str] = []

    async def run(ctx: Context) -> str:
        try:
            await ctx.run("leave", step, kind)
        except StepFailed as failed:
            caught.append(failed.error)
        return "here"

    ending = await Model(retry=TWICE).drive(endpoint(run))
    assert (ending.result, caught) == ('"here"', [LEAVING[kind]])


@pytest.mark.parametrize("kind", LEAVING)
async def test_whatever_leaves_a_step_beside_others_fails_it(kind: type[BaseException]) -> None:
    """In a task of its own, where asyncio lets some kinds through to the event loop."""

    async def run(ctx: Context) -> list[str]:
        both = asyncio.gather(ctx.run("a", leave, kind), ctx.run("b", async_leave, kind), return_exceptions=True)
        return [type(it).__name__ for it in await both]

    assert (await Model(retry=TWICE).drive(endpoint(run))).result == '["StepFailed", "StepFailed"]'


@pytest.mark.parametrize("kind", LEAVING)
async def test_whatever_leaves_a_function_fails_its_attempt(kind: type[BaseException]) -> None:
    """Outside of steps as well, and where the payload is made."""

    async def run(ctx: Context) -> None:
        leave(kind)

    model = Model(retry=TWICE)
    ending = await model.drive(endpoint(run))
    assert (ending.ending, first_line(ending), len(model.endings)) == ("dead", LEAVING[kind], 2)
    ending = await Model().drive(endpoint(run, payload=lambda claim: leave(kind)))
    assert (ending.ending, first_line(ending)) == ("dead", LEAVING[kind])


@contextmanager
def handled_by(handler: Any) -> Generator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Handler:
    def handle(self, number: int, frame: object) -> None:
        raise KeyboardInterrupt

    __call__ = handle


HANDLERS = [signal.default_int_handler, Handler(), Handler().handle, functools.partial(Handler().handle)]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_ctrl_c_is_no_failure_of_the_code_it_meets(handler: Any) -> None:
    """Whoever handles the signal; what the code raises itself is one."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    def raising() -> None:
        raise KeyboardInterrupt

    with handled_by(handler):
        for code, expected in ((interrupted, True), (raising, False)):
            with pytest.raises(KeyboardInterrupt) as caught:
                code()
            assert is_program_exit(caught.value, task, loop) is expected


async def test_a_task_that_is_thrown_away_has_not_failed() -> None:
    """Its coroutine is closed, and can wait for nothing any more."""
    loop = asyncio.get_running_loop()
    other = asyncio.create_task(asyncio.sleep(0))
    assert is_program_exit(GeneratorExit(), other, loop)
    assert not is_program_exit(GeneratorExit(), asyncio.current_task(), loop)
    await other


INTERRUPTED = """
import asyncio, os, signal
from batchflow import Batchflow, WorkflowContext

# Who has started the tests may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
flow = Batchflow("sqlite://")

@flow.serve("/f")
async def f(ctx: WorkflowContext[None]) -> None:
    async def step() -> None:
        # At the first one, asyncio cancels what it runs; it raises at the second.
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    await ctx.run("step", step)

async def main() -> None:
    async with flow:
        await (await f.trigger(None)).wait()

asyncio.run(main())
"""


def test_ctrl_c_ends_the_program_in_the_middle_of_a_step() -> None:
    """As it would without batchflow."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGINT, ended.stderr.decode()
    assert b"KeyboardInterrupt" in ended.stderr


async def test_a_plain_step_that_raises_stop_iteration_is_a_failed_one() -> None:
    """No future takes it, and the run would wait for ever."""

    def first() -> int:
        return next(iter(list[int]()))

    async def run(ctx: Context) -> str:
        try:
            return str(await ctx.run("first", first))
        except StepFailed as failed:
            return failed.error

    ending = await Model(retry=TWICE).drive(endpoint(run))
    assert ending.result is not None
    assert ending.result.startswith('"RuntimeError: <function')
    assert ending.result.endswith('raised StopIteration"')


async def test_a_step_that_nobody_awaits_is_told_of_when_its_function_returns() -> None:
    """It is cut off, or not begun: the log names it."""
    tasks: list[asyncio.Task[Any]] = []

    async def cut_off(ctx: Context) -> None:
        tasks.append(asyncio.create_task(ctx.run("charge", asyncio.Event().wait)))
        await ctx.run("own", Calls()("own", turns=3))

    async def not_begun(ctx: Context) -> None:
        tasks.append(asyncio.create_task(ctx.run("charge", Calls()("charge"))))

    with capture_logs() as lines:
        assert (await Model().drive(endpoint(cut_off))).ending == "done"
        assert (await Model().drive(endpoint(not_begun))).ending == "done"
        await asyncio.wait(tasks)
    assert [(line["log_level"], line["event"], line.get("steps") or line["step"]) for line in lines] == [
        (
            "warning",
            "[batchflow] Steps are cut off, since their function has returned without awaiting them",
            ["charge"],
        ),
        (
            "warning",
            "[batchflow] A step is not executed, since its function returned before requesting it; await the step",
            "charge",
        ),
    ]


async def test_a_step_that_was_cancelled_by_the_code_is_no_surprise() -> None:
    """Cancelling the loser of a race is no failure."""

    async def run(ctx: Context) -> None:
        loser = asyncio.create_task(ctx.run("loser", asyncio.Event().wait))
        await ctx.run("winner", Calls()("winner", turns=3))
        loser.cancel()

    with capture_logs() as lines:
        assert (await Model().drive(endpoint(run))).ending == "done"
    assert lines == []


@pytest.mark.parametrize("how", ["finally", "raise", "raise another", "raise from"])
async def test_a_function_that_cleaned_up_on_its_way_out_is_not_tried_again(how: str) -> None:
    """That step is done; a second attempt might not come to it, and would not fit its journal."""
    calls = Calls()

    def fails() -> None:
        raise ConnectionError("outside of steps")

    async def at_last(ctx: Context) -> None:
        await ctx.run("charge", calls("charge"))
        try:
            fails()
        finally:
            await ctx.run("release", calls("release"))

    async def caught(ctx: Context) -> None:
        await ctx.run("charge", calls("charge"))
        try:
            fails()
        except ConnectionError as error:
            await ctx.run("release", calls("release"))
            if how == "raise":
                raise
            if how == "raise from":
                raise ConnectionError("outside of steps") from error
            raise ConnectionError("outside of steps")  # noqa: B904

    run = at_last if how == "finally" else caught
    model = Model(retry=RetryPolicy(retries=3))
    ending = await model.drive(endpoint(run))
    assert (ending.ending, calls.made, len(model.endings)) == ("dead", ["charge", "release"], 1)
    assert first_line(ending) == (
        "ConnectionError: outside of steps (not tried again, since step 'release' was executed on the way out)"
    )


async def test_a_failure_that_was_handled_with_a_step_is_no_way_out() -> None:
    """A later failure is retried."""
    calls = Calls()
    tries: list[int] = []

    async def run(ctx: Context) -> str:
        try:
            raise ConnectionError("handled")
        except ConnectionError:
            await ctx.run("note", calls("note"))
        tries.append(len(tries))
        if len(tries) < 2:
            raise TimeoutError("later")
        return "through"

    ending = await Model(retry=RetryPolicy(retries=3)).drive(endpoint(run))
    assert (ending.result, calls.made, tries) == ('"through"', ["note"], [0, 1])
