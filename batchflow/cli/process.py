"""The process of a command: its event loop, its signals, its errors and its end.

The process ends with the command, even if user code still holds a thread.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from rich.text import Text

from batchflow.cli.output import Output
from batchflow.errors import BatchflowError, ConfigurationError, InputError, StoreIncompatible
from batchflow.logs import escape_controls

EXIT_USAGE = 2
"""The exit code for a wrong command line, configuration or input: trying again fails again."""

_EXIT_TIMEOUT_SECONDS = 3.0
# A thread of user code that does not end can delay the end of the process by this much.
_EXTRA_SECONDS = 5.0
_CANCEL_TIMEOUT_SECONDS = 1.0
# For tasks that ignore their cancellation at the end.


def run_event_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on a new event loop and return its result.

    Unlike `asyncio.run`, this does not wait for the threads of the loop: a plain function that hangs must not hold up
    the command.
    """
    tune_garbage_collector()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop for this platform."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def tune_garbage_collector() -> None:
    """Have garbage collected less often, in a process that only runs batches."""
    # Reference counting frees nearly all objects of a run. The default, a search for cycles after every 700 objects,
    # takes a fifth of the time of a batch of small items.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _cancel_tasks() -> None:
    remaining = asyncio.all_tasks() - {asyncio.current_task()}
    for task in remaining:
        task.cancel()
    if remaining:
        await asyncio.wait(remaining, timeout=_CANCEL_TIMEOUT_SECONDS)


def exit_process(code: int) -> NoReturn:
    """End the process, even if user code still holds a thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter waits for all threads, also for that of a plain function that hangs.
    last_resort = threading.Timer(_EXIT_TIMEOUT_SECONDS, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()
    sys.exit(code)


def run_and_report(action: Callable[[], int]) -> int:
    """Run `action`; print an error that it raises and turn it into an exit code."""
    try:
        return action()
    except BatchflowError as error:
        print_error(str(error))
        return EXIT_USAGE if isinstance(error, (ConfigurationError, InputError, StoreIncompatible)) else 1
    except BrokenPipeError:
        # The reader of stdout has gone, as `head` does. Nothing must be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except typer.TyperException as error:
        print_error(_usage_message(error))
        return error.exit_code


def _usage_message(error: typer.TyperException) -> str:
    number = _number_message(error)
    message = error.format_message().rstrip(".") if number is None else number
    context = getattr(error, "ctx", None)
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    return message[:1].lower() + message[1:] + hint


def _number_message(error: typer.TyperException) -> str | None:
    """The message for an option that takes numbers; None for any other error."""
    cause = error.__cause__
    if not isinstance(error, typer.BadParameter) or error.param is None or not isinstance(cause, ValidationError):
        return None
    wrong = cause.errors(include_url=False)[0]
    limits = wrong.get("ctx", {})
    if wrong["type"] == "greater_than_equal":
        want = f" of {_limit_text(limits['ge'])} or more"
    elif wrong["type"] == "less_than_equal":
        want = f" of at most {_limit_text(limits['le'])}"
    elif wrong["type"].startswith(("int_", "float_")):
        want = ""
    else:
        return None
    is_float = wrong["type"].startswith("float_") or any(isinstance(limit, float) for limit in limits.values())
    kind = "number" if is_float else "whole number"
    return f"'{error.param.opts[0]}' cannot be {wrong['input']!r}; write a {kind}{want}"


def _limit_text(limit: float) -> str:
    return f"{limit:g}" if isinstance(limit, float) else f"{limit:,}"


def print_error(sentence: str) -> None:
    """Print an error to stderr."""
    # In one write: several processes of a worker share this stderr.
    Output().stderr.print(Text.assemble(("error:", "bold red"), " ", escape_controls(sentence)), soft_wrap=True)


async def cancel_and_wait(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end; its outcome is ignored."""
    task.cancel()
    await asyncio.wait((task,))


class SignalHandler:
    """Inside its `with` block, Ctrl-C and SIGTERM set `stop_requested` instead of ending the process.

    A second signal ends the process at once. So does a stop that takes longer than three times the grace period, in
    which running work ends, or is cancelled and recorded: code that blocks the event loop cannot hold the process.
    `before_exit` is called before such an exit.
    """

    def __init__(self, grace_seconds: float, before_exit: Callable[[], None] = lambda: None) -> None:
        self.stop_requested = asyncio.Event()
        self._before_exit = before_exit
        self.received: signal.Signals | None = None
        self._timeout_seconds = 3 * grace_seconds + _EXTRA_SECONDS
        self._loop = asyncio.get_running_loop()
        self._previous: dict[signal.Signals, object] = {}
        self._watchdog: threading.Timer | None = None

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect after a signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.received or signal.SIGINT)

    async def wait_for(self, task: "asyncio.Task[Any]") -> bool:
        """Wait until the task ends or a signal comes; True if the task has ended."""
        stop_requested = asyncio.create_task(self.stop_requested.wait())
        await asyncio.wait((task, stop_requested), return_when=asyncio.FIRST_COMPLETED)
        stop_requested.cancel()
        return task.done()

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous if callable(previous) or isinstance(previous, int) else signal.SIG_DFL)
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Not a handler of the event loop: user code may block that.
        if self.received is not None:
            self._exit_now(128 + number)
        self.received = signal.Signals(number)
        self._watchdog = threading.Timer(self._timeout_seconds, self._exit_now, (self.exit_code,))
        self._watchdog.daemon = True
        self._watchdog.start()
        self._loop.call_soon_threadsafe(self.stop_requested.set)

    def _exit_now(self, code: int) -> None:
        self._before_exit()
        if sys.stdout.isatty():
            # The bar has hidden the cursor.
            os.write(sys.stdout.fileno(), b"\x1b[?25h\r\n")
        os._exit(code)
