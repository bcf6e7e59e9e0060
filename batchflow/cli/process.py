"""The event loop of one command: it ends when the command does, whatever user code still holds on to."""

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
from rich.text import Text

from batchflow.cli.output import Output
from batchflow.errors import BatchflowError, ConfigurationError, InputError, StoreIncompatible

_CANCEL_TIMEOUT_SECONDS = 1.0
# For tasks that are cancelled at the end, and do not go.


def run_event_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on a loop of its own and return what it returns.

    Unlike `asyncio.run`, this waits for no thread of the loop's pool: a sync hook that hangs must not hold the command.
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
    """The fastest event loop there is for this platform."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def tune_garbage_collector() -> None:
    """Let the garbage collector look at this process less often; for a process that does nothing but run batches."""
    # Reference counting frees nearly all that a run makes. Looking for cycles among everything that is under way, every
    # 700 objects as is the default, takes a fifth of the time of a batch of small items.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _cancel_tasks() -> None:
    remaining = asyncio.all_tasks() - {asyncio.current_task()}
    for task in remaining:
        task.cancel()
    if remaining:
        await asyncio.wait(remaining, timeout=_CANCEL_TIMEOUT_SECONDS)


EXIT_USAGE = 2
"""The exit code for a wrong command line, configuration or input: trying again fails again."""


_EXIT_TIMEOUT_SECONDS = 3.0
# How long a thread of user code that does not end may delay the end of the process.


def exit_process(code: int) -> NoReturn:
    """End the process, whatever user code still holds on to."""
    sys.stdout.flush()
    sys.stderr.flush()
    # A sync hook that holds on to its thread would keep the interpreter from ending.
    last_resort = threading.Timer(_EXIT_TIMEOUT_SECONDS, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()
    sys.exit(code)


def run_and_report(action: Callable[[], int]) -> int:
    """What `act` returns; where it raises, the exit code of that, which is told."""
    try:
        return action()
    except BatchflowError as error:
        print_error(str(error))
        return EXIT_USAGE if isinstance(error, (ConfigurationError, InputError, StoreIncompatible)) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except typer.TyperException as error:
        print_error(_usage_message(error))
        return error.exit_code


def _usage_message(error: typer.TyperException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    return message[:1].lower() + message[1:] + hint


def print_error(sentence: str) -> None:
    # In one write: processes of a worker that all fail share this stderr.
    Output().stderr.print(Text.assemble(("error:", "bold red"), " ", sentence), soft_wrap=True)


async def cancel_and_wait(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end; its outcome is ignored."""
    task.cancel()
    await asyncio.wait((task,))


_EXTRA_SECONDS = 5.0


class SignalHandler:
    """While it is entered, Ctrl-C and SIGTERM set `requested` instead of ending the process.

    A stop that takes longer than three times the grace (what is under way may end, then be cancelled, then be written)
    is cut off: code that blocks the event loop cannot hold the process. Who leaves at once calls `before_leaving`.
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
        """What a shell expects of a program that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
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
        # Not by the event loop's own handlers: those are not called while user code blocks it.
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
