"""The places that get the lines of the log, from which level on, and that no value forges a line."""

import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from batchflow import Batchflow
from batchflow.errors import ConfigurationError
from batchflow.logs import escape_controls, log_of, logger, set_level

EVIL = "u1\n2030-01-01 00:00:00 [info     ] forged\r\x1b[2J\x1b]0;pwned\x07\u2028\u202e"


@pytest.fixture(autouse=True)
def unset_level() -> Iterator[None]:
    """The level of the environment holds for the process."""
    yield
    set_level(None)


class Handlers(list[logging.Handler]):
    """Handlers of a logger to which pytest cannot add its own."""

    def append(self, handler: logging.Handler) -> None:
        pass


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was written to stderr, in a process that has configured nothing: pytest's own handlers are away."""
    monkeypatch.setattr(logging.root, "handlers", Handlers())
    return lambda: capsys.readouterr().err


class Records(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    """The records of an app that has configured `logging` at INFO, and nothing else."""
    handler, root = Records(), logging.getLogger()
    monkeypatch.setattr(root, "handlers", Handlers([handler]))
    monkeypatch.setattr(root, "level", logging.INFO)
    own = logging.getLogger("batchflow")
    yield handler
    own.setLevel(logging.NOTSET)
    logging.getLogger("batchflow.reviews").setLevel(logging.NOTSET)


def test_stderr_gets_lines_from_info_on(stderr: Callable[[], str]) -> None:
    """An app that has configured nothing."""
    logger().debug("a page")
    logger().info("it starts", batch="bat_1", of="two words")
    (line,) = stderr().splitlines()
    assert line.endswith("] it starts batch=bat_1 of='two words'")
    assert not logger().is_enabled_for(logging.DEBUG)


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", ["debug", "info", "warning", "error"]), ("ERROR", ["error"]), ("CRITICAL", [])],
)
def test_log_level_holds_without_a_command(
    stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch, level: str, written: list[str]
) -> None:
    """BATCHFLOW_LOG_LEVEL, in any case, from the first app on."""
    monkeypatch.setenv("BATCHFLOW_LOG_LEVEL", level)
    Batchflow("sqlite://")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger(), name)(name)
    assert [line.split()[-1] for line in stderr().splitlines()] == written


def test_log_level_holds_for_structlog_and_logging(monkeypatch: pytest.MonkeyPatch, records: Records) -> None:
    """It takes nothing away from what the app has configured but lines below it."""
    monkeypatch.setenv("BATCHFLOW_LOG_LEVEL", "ERROR")
    Batchflow("sqlite://")
    logger().warning("away")
    logger().error("kept")
    with structlog.testing.capture_logs() as lines:
        logger().warning("away")
        logger().error("kept")
    assert records.messages() == ["kept"]
    assert [line["event"] for line in lines] == ["kept"]
    structlog.reset_defaults()
    set_level("DEBUG")
    logger().debug("a page")
    assert records.messages() == ["kept", "a page"]


def test_log_level_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the app is made."""
    monkeypatch.setenv("BATCHFLOW_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigurationError, match="BATCHFLOW_LOG_LEVEL"):
        Batchflow("sqlite://")


def test_logging_gets_the_lines_of_an_app_that_has_configured_it(records: Records) -> None:
    """Values are in the message, and by name in the record; names of the record itself get an underscore."""
    log_of("reviews:execute").warning("it fails", item_id="a b", attempts=4, name="x")
    logger().debug("a page")
    (record,) = records.records
    assert (record.name, record.levelno) == ("batchflow.reviews", logging.WARNING)
    assert record.getMessage() == "it fails item_id='a b' attempts=4 name=x"
    values: dict[str, Any] = vars(record)
    assert (values["item_id"], values["attempts"], values["name_"]) == ("a b", 4, "x")
    assert record.filename == Path(__file__).name


def test_levels_of_loggers_hold(records: Records, stderr: Callable[[], str]) -> None:
    """Of `batchflow`, and of one workflow, with handlers and without."""
    logging.root.handlers = [records]
    logging.getLogger("batchflow.reviews").setLevel(logging.ERROR)
    log_of("reviews:execute").warning("away")
    log_of("orders:execute").warning("kept")
    logging.getLogger("batchflow").setLevel(logging.CRITICAL)
    log_of("orders:execute").error("away")
    assert records.messages() == ["kept"]
    logging.root.handlers = []
    log_of("orders:execute").error("away")
    assert stderr() == ""


def test_values_forge_no_line(stderr: Callable[[], str], records: Records) -> None:
    """Control characters are escaped for every renderer, in texts and values, and in the text of an exception."""

    def write() -> None:
        logger().bind(label=EVIL).error(EVIL, item_id=EVIL, params={"a": EVIL}, error=ValueError(EVIL))
        logger().error("it raised", exc_info=ValueError(EVIL))

    logging.root.handlers = []
    write()
    handler = logging.StreamHandler(to_logging := io.StringIO())
    logging.root.handlers = [handler]
    write()
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer(repr_native_str=False)],
        logger_factory=structlog.PrintLoggerFactory(to_structlog := io.StringIO()),
    )
    logger().bind(label=EVIL).error(EVIL, item_id=EVIL)
    for written in (stderr(), to_logging.getvalue(), to_structlog.getvalue()):
        assert not any(sign in written for sign in "\r\x1b\x07\u2028\u202e")
        assert not any(line.startswith("2030") for line in written.splitlines())
        assert "u1\\n2030-01-01 00:00:00 [info     ] forged\\r\\x1b[2J" in written


def test_text_without_controls_is_left_alone() -> None:
    """Letters of any script, and signs."""
    assert escape_controls("Grüße, 世界 × 🙂") == "Grüße, 世界 × 🙂"


def test_colours_are_for_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is obeyed."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(logging.root, "handlers", Handlers())
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    logger().info("a line")
    assert "\x1b[" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    logger().info("a line")
    assert "\x1b[" not in terminal.getvalue()
    assert "a line" in terminal.getvalue()


PROGRAM = """
import asyncio, json, logging, os, sys
from batchflow import Batchflow
if "logging" in sys.argv:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
if "quiet" in sys.argv:
    logging.getLogger("batchflow").setLevel(logging.CRITICAL)
flow = Batchflow("sqlite://")
@flow.batch(ids=["a", "b"], flow=None)
async def greet(id: str) -> str:
    return id
async def main():
    async with flow:
        await (await greet.trigger()).wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("arguments", [("",), ("logging",), ("quiet",), ("logging", "quiet")])
def test_a_program_logs_as_it_is_configured(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A process of its own, without pytest: to stderr, to `logging`, or nothing at all."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    to_logging = [line for line in done.stdout.splitlines() if line.startswith("batchflow")]
    to_stderr = [line for line in done.stderr.splitlines() if "[greet:process]" in line]
    assert bool(to_logging) is (arguments == ("logging",))
    assert bool(to_stderr) is (arguments == ("",))
    assert bool(done.stderr) is bool(to_stderr)
