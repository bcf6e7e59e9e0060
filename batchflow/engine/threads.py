"""The thread pool for plain functions of user code. Its size is limited, and hanging threads are replaced."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from batchflow.core.ports import PlainCall

T = TypeVar("T")

MAX_REPLACED = 256
"""The most hanging threads that are replaced by others."""

_State: TypeAlias = Literal["queued", "running", "abandoned", "ended"]


class AbandonedCall(NamedTuple):
    """A call that nobody waits for any more; `hanging` is their number. `replaced`: another thread may start."""

    call: PlainCall
    hanging: int
    replaced: bool


class _Job:
    """A call in the pool; `state` changes under the lock, `waiting` on the event loop."""

    __slots__ = ("call", "future", "loop", "on_wait", "plain_call", "state", "waiting")

    def __init__(
        self,
        call: Callable[[], Any],
        plain_call: PlainCall,
        waits: Callable[[bool, float], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.call: Callable[[], Any] = call
        self.plain_call = plain_call
        self.on_wait: Callable[[bool, float], None] = waits
        self.loop = loop
        # Never an exception of the future: a GeneratorExit would close the coroutine that awaits it.
        self.future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.state: _State = "queued"
        self.waiting = False

    def mark_started(self) -> None:
        """Record that a thread runs the call."""
        if self.waiting:
            self.waiting = False
            self.on_wait(False, self.loop.time())

    def set_outcome(self, result: Any, error: BaseException | None) -> None:
        """Answer the caller."""
        if not self.future.done():
            self.future.set_result((result, error))


class ThreadPool:
    """Implements `batchflow.core.ports.Threads`: up to `size` threads, started when they are needed.

    A call that is cancelled while it runs is abandoned: `on_abandoned` is called on the event loop, and another thread
    may replace its thread, for up to `MAX_REPLACED` at a time. The threads are daemons: the end of the program does not
    wait.
    """

    def __init__(
        self, size: int, on_abandoned: Callable[[AbandonedCall], None], *, max_replaced: int = MAX_REPLACED
    ) -> None:
        self._size = size
        self._max_replaced = max_replaced
        self._on_abandoned = on_abandoned
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Job] = set()
        self._threads = 0
        self._numbers = itertools.count()
        self._idle = 0
        # Calls that wait for a thread, without those on their way to an idle one.
        self._backlog = 0
        self._hanging = 0
        self._closed = False

    @property
    def hanging(self) -> int:
        """The number of threads that run an abandoned call."""
        return self._hanging

    async def run(self, call: Callable[[], T], about: PlainCall, waits: Callable[[bool, float], None]) -> T:
        """See the port."""
        job = _Job(call, about, waits, asyncio.get_running_loop())
        if not self._enqueue(job):
            waits(True, job.loop.time())
        try:
            result, error = await job.future
        finally:
            job.mark_started()
            if job.state != "ended":
                self._abandon(job)
        if error is None:
            return result
        try:
            raise error
        finally:
            # The traceback refers to this frame, which would keep the error alive in turn.
            del error, job

    def close(self) -> list[PlainCall]:
        """Accept no more calls, drop the waiting ones, and return the ones that still run."""
        with self._lock:
            self._closed = True
            left = [job.plain_call for job in self._running]
            waiting: list[_Job] = []
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None:
                    job.state = "ended"
                    waiting.append(job)
            for _ in range(self._threads):
                self._jobs.put(None)
        for job in waiting:
            # Its event loop may be closed.
            with contextlib.suppress(RuntimeError):
                job.future.cancel()
        return left

    # On the event loop

    def _enqueue(self, job: _Job) -> bool:
        """Give the call to a thread; False if it has to wait for one."""
        starts = False
        with self._lock:
            if self._closed:
                raise RuntimeError("the app has stopped and accepts no more calls of plain functions")
            if self._idle:
                self._idle -= 1
            elif self._has_room():
                self._threads += 1
                starts = True
            else:
                self._backlog += 1
                job.waiting = True
            self._jobs.put(job)
        # Outside the lock, so that the thread can begin at once.
        if starts and not self._start_thread():
            with self._lock:
                self._backlog += 1
            job.waiting = True
        return not job.waiting

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for the call any more: drop it, or abandon its thread."""
        with self._lock:
            if job.state != "running":
                if job.state == "queued":
                    job.state = "ended"
                return
            job.state = "abandoned"
            self._hanging += 1
            abandoned = AbandonedCall(job.plain_call, self._hanging, self._hanging <= self._max_replaced)
            replaces = self._backlog > 0 and not self._closed and self._has_room()
            if replaces:
                self._threads += 1
                self._backlog -= 1
        if replaces and not self._start_thread():
            with self._lock:
                self._backlog += 1
        self._on_abandoned(abandoned)

    def _has_room(self) -> bool:
        return self._threads - min(self._hanging, self._max_replaced) < self._size

    def _start_thread(self) -> bool:
        """Start a thread that is counted already; False if the machine refuses it but other threads run."""
        thread = threading.Thread(target=self._work, name=f"batchflow-plain-{next(self._numbers)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                if self._threads == self._hanging:
                    raise
            return False
        return True

    # In a thread

    def _work(self) -> None:
        keeps_running = True
        while keeps_running:
            job = self._jobs.get()
            if job is None or not self._begin(job):
                keeps_running = self._skip()
                continue
            try:
                ended = (job.call(), None)
            except BaseException as error:
                ended = (None, error)
            keeps_running = self._end(job, *ended)
            # An idle thread keeps nothing of the call alive.
            del job, ended

    def _begin(self, job: _Job) -> bool:
        with self._lock:
            if job.state != "queued":
                return False
            job.state = "running"
            self._running.add(job)
        _on_loop(job, job.mark_started)
        return True

    def _skip(self) -> bool:
        with self._lock:
            return self._free_thread()

    def _end(self, job: _Job, result: Any, error: BaseException | None) -> bool:
        with self._lock:
            self._hanging -= job.state == "abandoned"
            job.state = "ended"
            self._running.discard(job)
            # Before the caller is answered, so that its next call finds the thread free.
            keeps_running = self._free_thread()
        _on_loop(job, job.set_outcome, result, error)
        return keeps_running

    def _free_thread(self) -> bool:
        """Use a free thread for a waiting call, or leave it idle; False if it ends, since others replace it."""
        if self._closed or self._threads - min(self._hanging, self._max_replaced) > self._size:
            self._threads -= 1
            return False
        if self._backlog:
            self._backlog -= 1
        else:
            self._idle += 1
        return True


def _on_loop(job: _Job, call: Callable[..., None], *args: Any) -> None:
    # The event loop may be closed.
    with contextlib.suppress(RuntimeError):
        job.loop.call_soon_threadsafe(call, *args)
