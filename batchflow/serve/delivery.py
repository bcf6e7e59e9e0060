"""What code sees of the delivery it runs in: in which app, in which step, and how long it waits for threads."""

from collections import Counter
from contextvars import ContextVar
from typing import TypeAlias

from batchflow.core.message import Claim
from batchflow.core.ports import Runtime, Threads
from batchflow.errors import InputError

ActiveStep: TypeAlias = tuple[str, int, str]
"""A step under way: the run's id, its number and its name."""

CURRENT_STEP: ContextVar[ActiveStep | None] = ContextVar("batchflow_step", default=None)


class DeliveryScope:
    """What one delivery, or one dry run, lends to the code within it."""

    # One is made for every item: what few of them use is set when it is used.
    _status_reads: Counter[tuple[str, int]] | None = None
    _waiting_calls = 0
    _waiting_since = 0.0
    _waited_s = 0.0

    def __init__(self, threads: Threads | None, runtime: Runtime | None = None, claim: Claim | None = None) -> None:
        self.threads = threads
        """Where plain functions run; None: in the event loop's own."""
        self._runtime = runtime
        self._claim = claim

    @property
    def app(self) -> object:
        """The app that delivers; None outside of a delivery."""
        return None if self._runtime is None else self._runtime.home

    def count_status_read(self, id: str) -> int:
        """How often code in the present step has looked at a run or batch that had not ended, this time included."""
        if self._status_reads is None:
            self._status_reads = Counter()
        _, number, _ = CURRENT_STEP.get() or ("", 0, "")
        self._status_reads[id, number] += 1
        return self._status_reads[id, number]

    def on_thread_wait(self, is_waiting: bool, now: float) -> None:
        """A plain function waits for a thread, or does not any more; `now` is the event loop's time."""
        if is_waiting:
            if not self._waiting_calls:
                self._waiting_since = now
                if self._runtime is not None and self._claim is not None:
                    self._runtime.interrupts.excuse(self._claim, self.thread_wait_s)
            self._waiting_calls += 1
            return
        self._waiting_calls -= 1
        if not self._waiting_calls:
            self._waited_s += now - self._waiting_since

    def thread_wait_s(self, now: float) -> float:
        """For how many seconds plain functions of it have waited for threads up to `now`."""
        return self._waited_s + (now - self._waiting_since if self._waiting_calls else 0)


CURRENT_DELIVERY: ContextVar[DeliveryScope | None] = ContextVar("batchflow_delivery", default=None)
"""None outside of any delivery."""


_MAX_STATUS_READS = 3
"""So often code in a step may look at what has not ended; who looks again waits for it."""


def check_may_wait(app: object, what: str) -> None:
    """Refuse to wait for a run or batch of `app` where that itself delivers the code that would wait.

    It would hold its place, its thread and its flow slot, which `what` may be waiting for.

    Raises:
        InputError: it does.
    """
    delivery = CURRENT_DELIVERY.get()
    if delivery is None or delivery.app is not app:
        return
    _, _, step = CURRENT_STEP.get() or ("", 0, "")
    where = f"step '{step}'" if step else "a durable function"
    raise InputError(
        f"{where} cannot wait for {what} of the same app: it would keep the place that this may need; "
        f"write 'await ctx.invoke(name, function, payload)' in the function, which waits without holding anything"
    )


def check_not_polling(app: object, id: str, what: str) -> None:
    """Code has looked at a run or batch of `app` that has not ended.

    Raises:
        InputError: it does so again and again in one step, that is, it waits.
    """
    delivery = CURRENT_DELIVERY.get()
    if delivery is not None and delivery.app is app and delivery.count_status_read(id) > _MAX_STATUS_READS:
        check_may_wait(app, what)
