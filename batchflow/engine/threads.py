"""The threads that plain functions of user code run in: a bounded number, of which none is waited for for ever."""

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
"""How many threads that hang are replaced by others at most."""

_State: TypeAlias = Literal["asked", "running", "given up", "over"]


class AbandonedCall(NamedTuple):
    """A thread whose call nobody waits for any more. `hanging` is how many there are; `replaced`: another may start."""

    call: PlainCall
    hanging: int
    replaced: bool


class _Job:
    """A call from when it is asked for; `state` changes under the lock, `waiting` on the event loop."""

    __slots__ = ("call", "future", "loop", "on_wait", "plain_call", "state", "waiting")

    def __init__(
        self,
        call: Callable[[], Any],
        about: PlainCall,
        waits: Callable[[bool, float], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.call: Callable[[], Any] = call
        self.plain_call = about
        self.on_wait: Callable[[bool, float], None] = waits
        self.loop = loop
        # What it raises is no exception of the future: a GeneratorExit would close whoever awaits it.
        self.future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.state: _State = "asked"
        self.waiting = False

    def mark_started(self) -> None:
        """It has its thread."""
        if self.waiting:
            self.waiting = False
            self.on_wait(False, self.loop.time())

    def set_outcome(self, result: Any, error: BaseException | None) -> None:
        """What came out of it."""
        if not self.future.done():
            self.future.set_result((result, error))


class ThreadPool:
    """`batchflow.core.ports.Threads`: up to `size` threads, started when they are needed.

    A call that is cancelled while it runs is given up: `on_given_up` is told, on the event loop, and another thread may
    take the place of its own, for up to `MOST_REPLACED` at a time. They are daemons: nothing waits for them at the end.
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
        # Calls that wait for a thread; those on their way to an idle one are not among them.
        self._backlog = 0
        self._hanging = 0
        self._closed = False

    @property
    def hanging(self) -> int:
        """How many threads run a call that was given up."""
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
            if job.state != "over":
                self._abandon(job)
        if error is None:
            return result
        try:
            raise error
        finally:
            # Its traceback has this frame, which would hold it in turn.
            del error, job

    def close(self) -> list[PlainCall]:
        """Take no more calls and drop those that wait; what still runs, and is not waited for."""
        with self._lock:
            self._closed = True
            left = [job.plain_call for job in self._running]
            waiting: list[_Job] = []
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None:
                    job.state = "over"
                    waiting.append(job)
            for _ in range(self._threads):
                self._jobs.put(None)
        for job in waiting:
            # Its event loop may be gone, and whoever waited with it.
            with contextlib.suppress(RuntimeError):
                job.future.cancel()
        return left

    # On the event loop

    def _enqueue(self, job: _Job) -> bool:
        """Whether it has a thread at once; else it waits for one."""
        starts = False
        with self._lock:
            if self._closed:
                raise RuntimeError("the app has stopped, and takes no more calls of plain functions")
            if self._idle:
                self._idle -= 1
            elif self._has_room():
                self._threads += 1
                starts = True
            else:
                self._backlog += 1
                job.waiting = True
            self._jobs.put(job)
        # Not under the lock, so that the thread begins at once.
        if starts and not self._start_thread():
            with self._lock:
                self._backlog += 1
            job.waiting = True
        return not job.waiting

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            if job.state != "running":
                if job.state == "asked":
                    job.state = "over"
                return
            job.state = "given up"
            self._hanging += 1
            given_up = AbandonedCall(job.plain_call, self._hanging, self._hanging <= self._max_replaced)
            replaces = self._backlog > 0 and not self._closed and self._has_room()
            if replaces:
                self._threads += 1
                self._backlog -= 1
        if replaces and not self._start_thread():
            with self._lock:
                self._backlog += 1
        self._on_abandoned(given_up)

    def _has_room(self) -> bool:
        return self._threads - min(self._hanging, self._max_replaced) < self._size

    def _start_thread(self) -> bool:
        """Start one that is counted already; False where the machine gives no more of them, but has given some."""
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
        goes_on = True
        while goes_on:
            job = self._jobs.get()
            if job is None or not self._begin(job):
                goes_on = self._skip()
                continue
            try:
                ended = (job.call(), None)
            except BaseException as error:
                ended = (None, error)
            goes_on = self._end(job, *ended)
            # Nothing of it is held on to while the thread is idle.
            del job, ended

    def _begin(self, job: _Job) -> bool:
        with self._lock:
            if job.state != "asked":
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
            self._hanging -= job.state == "given up"
            job.state = "over"
            self._running.discard(job)
            # Before anybody hears of the end, so that who asks next finds the thread free.
            goes_on = self._free_thread()
        _on_loop(job, job.set_outcome, result, error)
        return goes_on

    def _free_thread(self) -> bool:
        """A thread is free again: for who waits, or idle; or it goes, where there are others in its place."""
        if self._closed or self._threads - min(self._hanging, self._max_replaced) > self._size:
            self._threads -= 1
            return False
        if self._backlog:
            self._backlog -= 1
        else:
            self._idle += 1
        return True


def _on_loop(job: _Job, call: Callable[..., None], *args: Any) -> None:
    # An event loop that has ended waits for nothing any more.
    with contextlib.suppress(RuntimeError):
        job.loop.call_soon_threadsafe(call, *args)
