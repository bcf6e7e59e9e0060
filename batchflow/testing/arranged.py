"""The part of a test environment that arranges what is to happen: stand-ins and faults."""

import random
from collections.abc import Mapping

from batchflow.core.duration import Duration, to_ms
from batchflow.testing.calls import AnsweringCaller, answering
from batchflow.testing.clock import ManualClock
from batchflow.testing.happened import Happened
from batchflow.testing.process import Crash, Faults, checked_number
from batchflow.testing.standins import HasId, Rule, StandIns, giving, id_of, raising, unused_call, unused_step


class Unused(AssertionError):
    """What a test has arranged never came about; the message says what, and what may have been meant."""


class Arranged(Happened):
    """Stand-ins for steps and calls by name, and faults that a workflow has to stand."""

    def __init__(self, clock: ManualClock, *, allow_network: bool) -> None:
        super().__init__(clock)
        self._stand_ins = StandIns(self._history)
        self._caller = AnsweringCaller(self._history, allow_network=allow_network)
        self._faults = Faults()

    # Stand-ins

    def answer(self, step: str, value: object, *, run: HasId | str | None = None) -> None:
        """Execute something else in place of a step: return `value`, or, where it is a function, call that.

        The function is given the step's arguments, and may be async. The value passes through the step's type. `run`
        holds it to one run.
        """
        self._stand_ins.rules.add(Rule(kind="answer", target=step, run=id_of(run), act=giving(value)))

    def fail(
        self,
        step: str,
        error: Exception | type[Exception],
        *,
        times: int | None = 1,
        run: HasId | str | None = None,
    ) -> None:
        """Raise `error` in place of a step, the first `times` times; None: always.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        self._stand_ins.rules.add(Rule(kind="fail", target=step, run=id_of(run), act=raising(error), times=times))

    def answer_call(
        self,
        call: str,
        status: int = 200,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
        run: HasId | str | None = None,
    ) -> None:
        """Answer `ctx.call`: the step of that name, or every call to a URL that begins so.

        Text and bytes go as they are, anything else as JSON; a function is given the `CallRequest` and returns the
        body. With `times` it answers that often, and goes before what always answers: a 503 first, then a 200.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        act = answering(status, body, headers)
        self._caller.rules.add(Rule(kind="answer_call", target=call, run=id_of(run), act=act, times=times))

    def fail_call(
        self,
        call: str,
        error: Exception | str = "connection refused",
        *,
        times: int | None = 1,
        run: HasId | str | None = None,
    ) -> None:
        """Give a call no answer, the first `times` times; None: always. Which call: as for `answer_call`.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        act = raising(ConnectionError(error) if isinstance(error, str) else error)
        self._caller.rules.add(Rule(kind="fail_call", target=call, run=id_of(run), act=act, times=times))

    # Faults

    def crash_before(self, step: int | str) -> None:
        """Let the process die before a step is written: it was executed, and nobody knows. See `crash_after`."""
        self._crash(Crash(step, "before"))

    def crash_after(self, step: int | str) -> None:
        """Let the process die right after a step is written; its work is taken up again when its lease has ended.

        `step` is a name, or counts the steps of all runs in the order in which they are first written, from 1. A step
        that waits is written when its wait begins. Several crashes may be arranged, each happens once.

        Raises:
            ConfigurationError: the number is below 1.
        """
        self._crash(Crash(step, "after"))

    def deliver_twice(self, delivery: int = 1) -> None:
        """Deliver once more what is delivered as the n-th, while the first delivery is still at it.

        Both execute the step that comes next; what the first one does after that counts for nothing. Deliveries are
        those of runs, again after every wait; calls do not count.

        Raises:
            ConfigurationError: the number is below 1.
        """
        self._faults.twice.add(checked_number(delivery, "delivery"))

    def deliver_late(self, by: Duration) -> None:
        """Deliver everything so much later than it is due, from here on."""
        self._faults.late_ms = to_ms(by, option="by")

    def reorder(self, seed: int = 0) -> None:
        """Deliver what is due one by one, in an order that chance decides: the same one for the same `seed`."""
        self._faults.order = random.Random(seed)

    def _crash(self, crash: Crash) -> None:
        if not isinstance(crash.step, str):
            checked_number(crash.step, "step")
        self._faults.crashes.append(crash)

    def _check_used(self) -> None:
        """Everything that was arranged has come about.

        Raises:
            Unused: something has not.
        """
        kinds = self._history.kinds()
        requests = self._history.calls.values()
        calls = {name for request in requests for name in (request.step, request.url)}
        sentences = [
            *(unused_step(rule, kinds) for rule in self._stand_ins.rules.unused()),
            *(unused_call(rule, calls, kinds) for rule in self._caller.rules.unused()),
            *self._faults.unmet(),
        ]
        if sentences:
            raise Unused("\n".join([*sentences, str(self)]))
