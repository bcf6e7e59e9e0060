"""The delivery and step that code runs in, and the rules against waiting for the own app in a step."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import TypeAlias

from batchflow.core.call import is_credential
from batchflow.core.expected_data import ExpectedData
from batchflow.core.message import Claim
from batchflow.core.ports import Runtime, Threads
from batchflow.core.secrets import printable_error, secret_texts, without_secrets
from batchflow.errors import InputError, step_text

ActiveStep: TypeAlias = tuple[str, int, str]
"""The step that is executing: run id, number and name."""

CURRENT_STEP: ContextVar[ActiveStep | None] = ContextVar("batchflow_step", default=None)


class DeliveryScope:
    """The state of one delivery, or of one dry run, for the code that runs in it."""

    # Created for every item: attributes that few of them use are set on first use.
    _status_reads: Counter[tuple[str, int]] | None = None
    _waiting_calls = 0
    _waiting_since = 0.0
    _waited_s = 0.0
    _results: tuple[str, ...] = ()
    beside: "Sequence[DeliveryScope]" = ()
    """Deliveries whose values may be in an error of this one, since they shared a call."""
    _kept_secrets: tuple[str, ...] = ()

    def __init__(self, threads: Threads | None, runtime: Runtime | None = None, claim: Claim | None = None) -> None:
        self.threads = threads
        """The threads for plain functions; None: the executor of the event loop."""
        self.runtime = runtime
        """The runtime of this delivery; None in a dry run."""
        self.claim = claim
        """The claim that is delivered; None in a dry run, or for several claims."""

    @property
    def app(self) -> object:
        """The app of this delivery; None in a dry run."""
        return None if self.runtime is None else self.runtime.client

    @property
    def expected_data(self) -> ExpectedData | None:
        """Gets the types of the events that its run waits for; None in a dry run."""
        return None if self.runtime is None else self.runtime.expected_data

    def keep_result(self, text: str) -> None:
        """Keep the stored text of a step's result that holds secrets, to know them in an error."""
        self._results += (text,)

    def keep_secrets(self, texts: Iterable[str], secrets: Iterable[str]) -> None:
        """Keep the stored texts that the code reads, and secret values, to know them in an error."""
        self._results += tuple(texts)
        self._kept_secrets += tuple(secrets)

    def printable(self, text: str) -> str:
        """Return the text of an error without the secrets of the message, of its batch and of its steps so far."""
        secrets = [secret for it in (self, *self.beside) for secret in it._secrets()]
        return without_secrets(text, secrets) if secrets else text

    def _secrets(self) -> list[str]:
        if (claim := self.claim) is None:
            return []
        steps = (it.value for it in claim.journal)
        stored = (claim.body, claim.params, claim.data, *steps, *self._results)
        secrets = [secret for it in stored if it is not None for secret in secret_texts(it)]
        secrets += [value for name, value in claim.headers.items() if is_credential(name)]
        return [*secrets, *self._kept_secrets]

    def count_status_read(self, id: str) -> int:
        """Count a read of an unfinished run or batch by the current step, and return the count."""
        if self._status_reads is None:
            self._status_reads = Counter()
        _, number, _ = CURRENT_STEP.get() or ("", 0, "")
        self._status_reads[id, number] += 1
        return self._status_reads[id, number]

    def on_thread_wait(self, is_waiting: bool, now: float) -> None:
        """Note that a plain function starts or stops waiting for a thread, at the event loop's time `now`."""
        if is_waiting:
            if not self._waiting_calls:
                self._waiting_since = now
                if self.runtime is not None and self.claim is not None:
                    self.runtime.interrupts.set_thread_wait(self.claim, self.thread_wait_s)
            self._waiting_calls += 1
            return
        self._waiting_calls -= 1
        if not self._waiting_calls:
            self._waited_s += now - self._waiting_since

    def thread_wait_s(self, now: float) -> float:
        """Return for how many seconds plain functions have waited for threads, up to `now`."""
        return self._waited_s + (now - self._waiting_since if self._waiting_calls else 0)


CURRENT_DELIVERY: ContextVar[DeliveryScope | None] = ContextVar("batchflow_delivery", default=None)
"""None outside of a delivery."""


def keep_result(text: str) -> None:
    """Keep the stored text of a step's result that holds secrets, for the errors of the current delivery."""
    if (delivery := CURRENT_DELIVERY.get()) is not None:
        delivery.keep_result(text)


def keep_secrets(texts: Iterable[str], secrets: Iterable[str] = ()) -> None:
    """Keep stored texts that the code reads, and secret values, for the errors of the current delivery."""
    if (delivery := CURRENT_DELIVERY.get()) is not None:
        delivery.keep_secrets(texts, secrets)


def printable(text: str) -> str:
    """Return the text of an error as it may be stored and shown: without the secrets that are known here."""
    delivery = CURRENT_DELIVERY.get()
    return printable_error(text if delivery is None else delivery.printable(text))


_MAX_STATUS_READS = 3
"""The number of reads of an unfinished run or batch that a step may make; more of them are waiting in disguise."""


def check_may_wait(app: object, what: str) -> None:
    """Raise `InputError` when code that `app` delivers would wait for a run or batch of the same app.

    It would occupy the worker, thread and flow slot that `what` may need.
    """
    delivery = CURRENT_DELIVERY.get()
    if delivery is None or delivery.app is not app:
        return
    _, _, step = CURRENT_STEP.get() or ("", 0, "")
    where = step_text(step) if step else "a durable function"
    raise InputError(
        f"{where} cannot wait for {what} of the same app: it would keep the place that this may need; "
        f"write 'await ctx.invoke(name, function, payload)' in the function, which waits without holding anything"
    )


def check_not_polling(app: object, id: str, what: str) -> None:
    """Raise `InputError` when a step reads an unfinished run or batch of `app` again and again."""
    delivery = CURRENT_DELIVERY.get()
    if delivery is not None and delivery.app is app and delivery.count_status_read(id) > _MAX_STATUS_READS:
        check_may_wait(app, what)
