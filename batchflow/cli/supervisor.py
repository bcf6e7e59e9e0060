"""Several worker processes of one command line: started, kept at work, stopped together."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence

from batchflow.cli.interrupt import Interrupt
from batchflow.core.duration import show
from batchflow.engine.clock import SystemClock
from batchflow.logs import logger

WRONG = 2
"""The exit code of a process for which there is no use in another try: its configuration or its store is wrong."""

STEADY_MS = 60_000
_STDIN = 0
_DELAYS_MS = (500, 1_000, 2_000, 5_000, 10_000, 30_000)


class Supervisor:
    """Keeps `count` processes of `command` at work.

    One that ends by itself is started again: after half a second, and up to half a minute where it ends soon again and
    again. Each has a pipe for its standard input, which ends with this process however that ends.
    """

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = command
        self._count = count
        self._clock = SystemClock()
        self._stopping = asyncio.Event()
        self._processes: set[asyncio.subprocess.Process] = set()

    async def run(self, interrupt: Interrupt, on_stop: Callable[[], None]) -> int:
        """Until a signal comes, which is passed on, and all have ended; the exit code. `on_stop` is called between.

        0: all ended in good order. 2: one of them cannot work as it is configured, and the others were stopped.
        """
        keeping = [asyncio.create_task(self._keep(interrupt)) for _ in range(self._count)]
        waiting = asyncio.create_task(interrupt.requested.wait())
        refused = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((waiting, refused), return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        on_stop()
        for process in self._processes:
            _send(process.pid, interrupt.signal or signal.SIGTERM)
        codes = await asyncio.gather(*keeping)
        for task in (waiting, refused):
            task.cancel()
        return WRONG if WRONG in codes else max(codes)

    def kill(self) -> None:
        """End all of them at once; what they hold is taken back by others."""
        for process in tuple(self._processes):
            _send(process.pid, signal.SIGKILL)

    async def _keep(self, interrupt: Interrupt) -> int:
        """Keep one process at work; the exit code of the last."""
        soon = 0
        while True:
            began = self._clock.now()
            pid, code = await self._once(interrupt)
            if code == WRONG:
                self._stopping.set()
            if self._stopping.is_set():
                # It may have come before the process could handle signals, and had claimed nothing.
                return 0 if code in (-signal.SIGTERM, -signal.SIGINT) else 128 - code if code < 0 else code
            soon = 0 if self._clock.now() - began >= STEADY_MS else soon
            delay = _DELAYS_MS[min(soon, len(_DELAYS_MS) - 1)]
            soon += 1
            logger().error(
                "[batchflow:error] A worker process ended; another one takes its place",
                process=pid,
                how=_how(code),
                starts_in=show(delay),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay / 1000):
                    await self._stopping.wait()
                    return 0

    async def _once(self, interrupt: Interrupt) -> tuple[int, int]:
        """One process from its start to its end: its id and its exit code."""
        try:
            # In a session of its own: Ctrl-C in a terminal goes to all processes of one, and would come twice.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            logger().error("[batchflow:error] A worker process cannot be started", error=str(error))
            return 0, 1
        self._processes.add(process)
        if self._stopping.is_set():
            _send(process.pid, interrupt.signal or signal.SIGTERM)
        try:
            return process.pid, await process.wait()
        finally:
            self._processes.discard(process)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    known = {it.value: it.name for it in signal.Signals}
    return known.get(-code, f"signal {-code}")


def stop_with_parent() -> None:
    """Have this process stop as at SIGTERM once its standard input ends, as it does with a supervisor that is gone."""

    def wait() -> None:
        while os.read(_STDIN, 1024):
            pass
        _send(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="batchflow-parent", daemon=True).start()


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
