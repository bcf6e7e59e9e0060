"""`batchflow worker` runs workers, in this process or in several; `batchflow workers` lists them."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from batchflow.app import Batchflow
from batchflow.batch.names import quantity
from batchflow.cli.options import JsonOption, TargetArgument, UrlOption
from batchflow.cli.output import LogWriter, Output, print_table, time_column
from batchflow.cli.process import EXIT_USAGE, SignalHandler, cancel_and_wait
from batchflow.cli.target import load_flow, location_text, open_batches
from batchflow.core.duration import humanize_duration
from batchflow.core.message import UnservedWork, WorkerStatus
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.engine.clock import SystemClock
from batchflow.errors import ConfigurationError, InputError
from batchflow.http.schemas.workers import UnservedInfo, WorkerInfo, WorkerList
from batchflow.logs import logger
from batchflow.settings import Settings
from batchflow.stores.sqlite import SqliteStore

_CONCURRENCY_VARIABLE = "BATCHFLOW_CONCURRENCY"
_NAME_VARIABLE = "BATCHFLOW_WORKER_NAME"
_POSTS = "messages of QStash"
_SUPERVISOR_EXTRA_SECONDS = 2.0
# The supervisor waits this much longer than its processes do before they exit by force.


@dataclass(frozen=True, kw_only=True)
class RunWorker:
    """Work for all workflows of MODULE:ATTR until SIGTERM or Ctrl-C.

    Any number of workers can share a store. At the stop, running work has the grace period (BATCHFLOW_GRACE, 10
    seconds) to end; the rest is released.

    A worker waits for a store that is unavailable, also at the start.

    Exit codes: 0 stopped, 2 usage, configuration or incompatible store, 130 and 143 stopped at once.
    """

    target: TargetArgument
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, metavar="N", help="The number of items and runs at once, per process."),
    ] = None
    processes: Annotated[
        int, typer.Option(min=1, max=1_000, metavar="N", help="The number of processes; one that dies is replaced.")
    ] = 1
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The prefix of the worker's name, instead of the host name.")
    ] = None

    async def execute(self) -> int:
        """Work until a signal comes."""
        flow = self._load()
        return await (run_worker(flow, Output()) if self.processes == 1 else self._supervise(flow, Output()))

    async def _supervise(self, flow: Batchflow, output: Output) -> int:
        if sys.platform == "win32":
            raise InputError("--processes needs signals, which Windows does not have; start several workers")
        store, settings = flow.engine.store, flow.settings
        if isinstance(store, SqliteStore) and store.path == ":memory:":
            raise InputError(f"'{settings.url}' is the memory of one process; name a file, or leave --processes out")
        supervisor = Supervisor([sys.executable, "-m", "batchflow.cli.worker_process", self.target], self.processes)
        signals = SignalHandler(settings.grace.total_seconds() + _SUPERVISOR_EXTRA_SECONDS, supervisor.kill)
        with signals, LogWriter(Settings.load().log_level, output):
            try:
                # If the store is unusable, this process reports it once, for all.
                if not await run_unless_stopped(signals, flow.engine.open(wait=True)):
                    output.print("Stopped")
                    return 0
            finally:
                await flow.stop()
            what = f"{_function_names(flow)} at {location_text(store)} with {self.processes} processes"
            output.print(f"Working for {what}; Ctrl-C stops them", flush=True)
            code = await supervisor.run(signals, lambda: print_stopping(flow, output))
            output.print("Stopped")
        return code

    def _load(self) -> Batchflow:
        # The app reads its settings when it is imported; the environment also reaches the supervised processes.
        if self.concurrency is not None:
            os.environ[_CONCURRENCY_VARIABLE] = str(self.concurrency)
        if self.name is not None:
            os.environ[_NAME_VARIABLE] = self.name
        flow = load_flow(self.target)
        if self.concurrency is not None and flow.settings.concurrency != self.concurrency:
            raise ConfigurationError(
                f"'{self.target}' sets its concurrency to {flow.settings.concurrency} in code; change it there"
            )
        if not flow.engine.executes:
            raise InputError(f"QStash calls '{self.target}': serve its router, as with uvicorn, and start no worker")
        if not _function_names(flow):
            raise InputError(f"'{self.target}' has nothing to work for; add a workflow with flow.add(…)")
        return flow


async def run_worker(flow: Batchflow, output: Output) -> int:
    """Work in this process until a signal comes; the exit code."""
    with SignalHandler(flow.settings.grace.total_seconds()) as signals, LogWriter(Settings.load().log_level, output):
        try:
            if await run_unless_stopped(signals, flow.start(worker=True)):
                output.print(
                    f"Working for {_function_names(flow)} at {location_text(flow.engine.store)}; Ctrl-C stops it",
                    flush=True,
                )
                await signals.stop_requested.wait()
                print_stopping(flow, output)
        finally:
            await flow.stop()
        output.print("Stopped")
    return 0


async def run_unless_stopped(signals: SignalHandler, start: Coroutine[Any, Any, None]) -> bool:
    """Start, however long the store keeps that waiting; False if a signal comes first."""
    starting = asyncio.create_task(start)
    if not await signals.wait_for(starting):
        await cancel_and_wait(starting)
        return False
    await starting
    return True


def print_stopping(flow: Batchflow, output: Output) -> None:
    """Tell that the stop has begun."""
    grace = humanize_duration(int(flow.settings.grace.total_seconds() * 1000))
    output.print(f"Stopping: running work has {grace} to end", flush=True)


def _function_names(flow: Batchflow) -> str:
    posts = [] if flow.engine.push_client is None else [_POSTS]
    return ", ".join([*sorted(flow.workflows), *sorted(flow.served), *posts])


_STABLE_MS = 60_000
_STDIN = 0
_RESTART_DELAYS_MS = (500, 1_000, 2_000, 5_000, 10_000, 30_000)


class Supervisor:
    """Keeps `count` processes of `command` running.

    A process that ends by itself is restarted after half a second; the delay grows to half a minute if it ends soon
    again and again. Its standard input is a pipe that closes when this process ends, in whatever way.
    """

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = command
        self._count = count
        self._clock = SystemClock()
        self._stopping = asyncio.Event()
        self._processes: set[asyncio.subprocess.Process] = set()

    async def run(self, signals: SignalHandler, on_stop: Callable[[], None]) -> int:
        """Run until a signal comes; call `on_stop`, pass the signal on, and wait for all processes; the exit code.

        0: all processes ended in good order. 2: one of them cannot work as it is configured, so all were stopped.
        """
        keepers = [asyncio.create_task(self._keep_running(signals)) for _ in range(self._count)]
        waiting = asyncio.create_task(signals.stop_requested.wait())
        refused = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((waiting, refused), return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        on_stop()
        for process in self._processes:
            _send_signal(process.pid, signals.received or signal.SIGTERM)
        codes = await asyncio.gather(*keepers)
        for task in (waiting, refused):
            task.cancel()
        return EXIT_USAGE if EXIT_USAGE in codes else max(codes)

    def kill(self) -> None:
        """Kill all processes; other workers take their claims back."""
        for process in tuple(self._processes):
            _send_signal(process.pid, signal.SIGKILL)

    async def _keep_running(self, signals: SignalHandler) -> int:
        """Restart one process until the stop; the exit code of the last one."""
        restarts = 0
        while True:
            started_at = self._clock.now()
            pid, code = await self._run_process(signals)
            if code == EXIT_USAGE:
                self._stopping.set()
            if self._stopping.is_set():
                # Killed by the signal itself: it came before the process handled signals, and had claimed anything.
                return 0 if code in (-signal.SIGTERM, -signal.SIGINT) else 128 - code if code < 0 else code
            restarts = 0 if self._clock.now() - started_at >= _STABLE_MS else restarts
            delay = _RESTART_DELAYS_MS[min(restarts, len(_RESTART_DELAYS_MS) - 1)]
            restarts += 1
            logger().error(
                "[batchflow:error] A worker process ended; another one takes its place",
                process=pid,
                how=_exit_text(code),
                starts_in=humanize_duration(delay),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay / 1000):
                    await self._stopping.wait()
                    return 0

    async def _run_process(self, signals: SignalHandler) -> tuple[int, int]:
        """Run one process to its end; its id and its exit code."""
        try:
            # A session of its own: otherwise Ctrl-C in a terminal would reach the process twice.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            logger().error("[batchflow:error] A worker process cannot be started", error=str(error))
            return 0, 1
        self._processes.add(process)
        if self._stopping.is_set():
            _send_signal(process.pid, signals.received or signal.SIGTERM)
        try:
            return process.pid, await process.wait()
        finally:
            self._processes.discard(process)


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    known = {it.value: it.name for it in signal.Signals}
    return known.get(-code, f"signal {-code}")


def stop_with_parent() -> None:
    """Send SIGTERM to this process when its standard input closes, which it does when the supervisor ends."""

    def wait() -> None:
        while os.read(_STDIN, 1024):
            pass
        _send_signal(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="batchflow-parent", daemon=True).start()


def _send_signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


@dataclass(frozen=True, kw_only=True)
class ListWorkers:
    """List the workers of a store, with heartbeats and claims.

    A thread hangs if a plain function does not return after its timeout; others take its place, up to a bound. A worker
    that died is lost until its claims are taken back, at the latest when its lease of 30 seconds has ended.
    """

    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        async with open_batches(self.url) as engine:
            found, unserved = await engine.store.workers(), await engine.run_store.unserved()
            now = engine.now()
        if self.as_json:
            workers, waiting = [WorkerInfo.of(it) for it in found], [UnservedInfo.of(it) for it in unserved]
            Output().print_json(WorkerList(workers=workers, unserved=waiting).document())
        else:
            _print_workers(Output(), found, now)
            for work in unserved:
                _print_unserved(Output(), work)
        return 0


def _print_workers(output: Output, found: Sequence[WorkerStatus], now: int) -> None:
    if not found:
        output.print("No workers")
        return
    since, times = time_column("since", [it.since or None for it in found], "%Y-%m-%d %H:%M:%S")
    rows = [_worker_row(it, time, now) for it, time in zip(found, times, strict=True)]
    print_table(output, ["worker", since, "heartbeat", "holds", ""], rows, ["red" if it.lost else "" for it in found])
    alike: dict[tuple[str, ...], list[str]] = {}
    for it in found:
        if it.serves and not it.lost:
            alike.setdefault(it.serves, []).append(it.name)
    for serves, names in alike.items():
        verb = "serves" if len(names) == 1 else "serve"
        output.print(f"{', '.join(names)} {verb} {', '.join(_served_names(serves))}")


def _served_names(destinations: Sequence[str]) -> list[str]:
    """The workflows and routes among destinations, and posts; the layers of a workflow are one name."""
    posts = {_POSTS} if PUSH_DESTINATION in destinations else set[str]()
    routes = [it for it in destinations if it.startswith("/")]
    workflows = {it.split("/")[1] for it in routes if it.endswith("/complete") and it.count("/") == 2}
    return sorted({name if (name := it.split("/")[1]) in workflows else it for it in routes} | posts)


def _print_unserved(output: Output, work: UnservedWork) -> None:
    batch = f" of batch {work.batch}" if work.batch is not None else ""
    waiting = quantity(work.waiting, "message")
    output.print(f"No worker serves {work.destination}: {waiting}{batch} cannot start", style="yellow")


def _worker_row(it: WorkerStatus, since: str, now: int) -> tuple[str, ...]:
    # The clock of the store can be ahead of this machine.
    ago = f"{humanize_duration(max(0, now - it.seen_at) // 1000 * 1000)} ago" if it.seen_at else ""
    return (
        it.name,
        since,
        f"lost, {ago}".removesuffix(", ") if it.lost else ago,
        _held_text(it),
        ", ".join(f"{destination} {count:,}" for destination, count in sorted(it.holds.items())),
    )


def _held_text(it: WorkerStatus) -> str:
    held = f"{it.held:,} of {it.concurrency:,}" if it.concurrency else f"{it.held:,}"
    if not it.hanging:
        return held
    return f"{held}, {it.hanging:,} {'threads hang' if it.hanging > 1 else 'thread hangs'}"
