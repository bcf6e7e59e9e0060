"""A log line that cannot be written costs the line, never the work."""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from batchflow import Batchflow, WorkflowContext
from batchflow.core.retry import RetryPolicy
from batchflow.errors import RunFailed
from batchflow.logs import logger, safe_str
from batchflow.serve.functions import ServedFunction

Processor = Callable[[Any, str, Any], Any]


def broken_pipe(_logger: Any, _method: str, _event: Any) -> Any:
    raise BrokenPipeError(32, "Broken pipe")


def leaves(_logger: Any, _method: str, _event: Any) -> Any:
    raise SystemExit(1)


@pytest.fixture(params=[broken_pipe, leaves])
def unwritable(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every line of the app's log raises."""
    structlog.configure(processors=[request.param], wrapper_class=structlog.make_filtering_bound_logger(0))
    yield
    structlog.reset_defaults()


def verbose_function(flow: Batchflow) -> ServedFunction[str, str]:
    @flow.serve("/f", verbose=True, retry=RetryPolicy(retries=1, first="10ms"))
    async def f(ctx: WorkflowContext[str]) -> str:
        ctx.log.info("it begins")
        if ctx.payload == "fails":
            raise ValueError("as it is told")
        return await ctx.run("step", str.upper, ctx.payload)

    return f


@pytest.mark.usefixtures("unwritable")
async def test_an_app_whose_log_raises_works_on() -> None:
    """Triggers, runs, failures, batches and the stop."""
    flow = Batchflow("sqlite://")
    f = verbose_function(flow)

    @flow.batch(ids=["a", "b"], flow=None, retry=RetryPolicy.none())
    async def greet(id: str) -> str:
        if id == "b":
            raise ValueError(id)
        return id

    async with flow:
        assert await (await f.trigger("ok")).wait(30) == "OK"
        with pytest.raises(RunFailed, match="ValueError: as it is told$"):
            await (await f.trigger("fails")).wait(30)
        counts = (await (await greet.trigger()).wait(30)).counts
        assert (counts.succeeded, counts.failed) == (1, 1)


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configuration of the app lines go to stderr, which may be closed, or not be there."""
    closed = io.StringIO()
    closed.close()
    for stderr in (closed, None, object()):
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(sys, "stdout", closed)
        logger().bind(run="1").error("it fails", exc_info=ValueError("x"))


def test_ctrl_c_gets_through() -> None:
    """The line is not at fault."""

    def interrupted(_logger: Any, _method: str, _event: Any) -> Any:
        raise KeyboardInterrupt

    structlog.configure(processors=[interrupted])
    try:
        with pytest.raises(KeyboardInterrupt):
            logger().info("a line")
    finally:
        structlog.reset_defaults()


def test_values_of_any_name_reach_the_line() -> None:
    """Those that structlog itself uses get an underscore."""
    with capture_logs() as lines:
        logger().bind(self=1).info("x", event=2, method_name=3, name=4, args=5, level=6, run=7)
    (line,) = lines
    assert dict(line) == {
        "event": "x",
        "self_": 1,
        "event_": 2,
        "method_name_": 3,
        "name": 4,
        "args": 5,
        "level": 6,
        "run": 7,
        "log_level": "info",
    }


def test_arguments_by_place_go_into_the_text() -> None:
    """Arguments that do not fit it follow it."""
    with capture_logs() as lines:
        logger().info("%s of %d", "one", 3)
        logger().info("%(n)d", {"n": 3})
        logger().info("100% done")
        logger().info("100%", 7)
    assert [line["event"] for line in lines] == ["one of 3", "3", "100% done", "100%"]
    assert lines[-1]["positional_args"] == (7,)


class _Mute(Exception):
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit])
def test_what_an_exception_says_can_always_be_read(error: type[BaseException]) -> None:
    """Even if its `__str__` raises."""
    assert safe_str(ValueError("a")) == "a"
    assert safe_str(_Mute(error)) == f"(its text cannot be read: {error.__name__})"


async def test_the_log_of_a_run_takes_what_structlog_takes() -> None:
    """Arguments by place, values of any name, what is no text: no line fails the run."""
    flow = Batchflow("sqlite://")

    @flow.serve("/f", retries=0)
    async def f(ctx: WorkflowContext[None]) -> str:
        log: Any = ctx.log
        log.info("a %s", "b", self=1)
        log.bind(self=2, event=3).warning("bound")
        log.error({"a": 1})
        log.exception("at %s", "once")
        return "done"

    with capture_logs() as lines:
        async with flow:
            assert await (await f.trigger(None)).wait(30) == "done"
    mine = [line for line in lines if "run" in line]
    assert [line["event"] for line in mine] == ["a b", "bound", {"a": 1}, "at once"]
