"""The machine of one attempt: runs the steps that the code asks for, makes them durable, says when nothing goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from batchflow.core.codec import Codec
from batchflow.core.message import Claim
from batchflow.core.ports import Asked
from batchflow.core.replay import Replay
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step, StepKind
from batchflow.errors import ReplayError, StepFailed
from batchflow.serve.attempt import Attempt, Inside
from batchflow.serve.callables import within
from batchflow.serve.failure import describe, headline, rate_limit, report, trace
from batchflow.serve.recorder import DirectRecorder
from batchflow.serve.refusal import after_last, nested, unreadable

T = TypeVar("T")


class Options(NamedTuple):
    """What is set for one step; `last`: its outcome goes with the settlement."""

    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    last: bool = False


PLAIN = Options()
LAST = Options(last=True)

# Made for every step there is; the constructor of a named tuple takes three times as long.
_new: Callable[..., Step] = tuple[Any, ...].__new__
_INSIDE: ContextVar[Inside | None] = ContextVar("batchflow_step", default=None)


class Driver(Attempt):
    """Runs the steps of one attempt and makes their outcomes durable."""

    __slots__ = ("failures", "limit", "loop", "recorder", "riding")

    def __init__(self, claim: Claim, recorder: DirectRecorder, root: "asyncio.Task[Any]") -> None:
        super().__init__(claim.id, Replay(claim.journal), root)
        self.loop = root.get_loop()
        if claim.journal:
            self.passed = self.replay.last
            self.share()
        self.recorder = recorder
        self.failures = claim.failures
        """Failed attempts of the function so far; a recorded step starts them anew."""
        self.limit: tuple[int, str] | None = None
        """Until when the flow key is to wait, and why."""
        self.riding: Step | None = None
        """The outcome of the last step, which goes with the settlement."""

    def now(self) -> int:
        """The time, in ms since the epoch."""
        return self.recorder.clock.now()

    async def step(
        self,
        name: str,
        codec: Codec[T],
        fn: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
    ) -> T:
        """The result of a step: the recorded one, or that of `fn` once it is durable."""
        # Nearly all runs are fresh and have no branches; they pay for nothing else.
        fresh = self.replay.begin(name) if self.idle and asyncio.current_task(self.loop) is self.root else 0
        if fresh:
            asked, number = None, fresh
            self.idle = False
            self.solo = inside = (self.run_id, number, name)
            _INSIDE.set(inside)
        else:
            asked = self._ask(name, "run")
            number = asked.number
        try:
            if asked is not None:
                asked = await self._turn(asked)
                if asked.position:
                    return self._recall(asked, codec)
                self._enter(number, name)
            value: Any = None
            try:
                if options.timeout_ms is None:
                    value = await fn(*args, **kwargs)
                else:
                    value = await within(options.timeout_ms, fn, args, kwargs)
                text, value = codec.round_trip(value, where=f"step '{name}'")
                outcome = _new(Step, (number, name, "run", "done", self.replay.place(), text, None, 0, 0))
            except Exception as error:
                outcome = self._failed(asked or Step(number, name, "run", "pending"), error, options.retry)
            if outcome.position:
                await self._commit(outcome, options.last)
            else:
                await self.share().park(outcome, outcome.due)
            if outcome.state == "failed":
                raise _final(outcome)
            return value
        finally:
            self._leave(number)

    async def sleep(self, name: str, due: int) -> None:
        """Come back once it is `due`, or what is recorded as due."""
        asked = self._ask(name, "sleep")
        try:
            if not asked.position and not asked.due:
                asked = asked._replace(due=due)
            asked = await self._turn(asked)
            if not asked.position:
                self._enter(asked.number, name)
                await self._commit(Step(asked.number, name, "sleep", "done", self.replay.place(), "null"))
        finally:
            self._leave(asked.number)

    def _enter(self, number: int, name: str) -> None:
        """A step starts to execute."""
        self.share().busy.add(number)
        _INSIDE.set((self.run_id, number, name))

    def _ask(self, name: str, kind: StepKind) -> Step:
        """Register a request."""
        task = asyncio.current_task()
        if self.ending is not None:
            self.turn_away(task, name)
        inside = _INSIDE.get()
        if inside is not None and self._is_under_way(inside):
            self.refuse(nested(name, inside[2]))
            raise asyncio.CancelledError
        if self.riding is not None:
            self.refuse(after_last(name, self.riding.name))
            raise asyncio.CancelledError
        try:
            asked = self.replay.ask(name, kind)
        except ReplayError as error:
            self.refuse(error)
            raise asyncio.CancelledError from None
        pump = self.share()
        pump.open[asked.number] = name
        if task is not None and task is not self.root:
            self.branches.add(task)
            pump.alone = False
        if not pump.alone:
            pump.stir()
        return asked

    def _leave(self, number: int) -> None:
        """A request has come back, in whatever way."""
        self.solo = None
        if self.pump is None:
            self.idle = self.ending is None and self.riding is None
        else:
            self.pump.leave(number)

    def _is_under_way(self, inside: Inside) -> bool:
        run, number, _ = inside
        return run == self.run_id and (inside is self.solo or (self.pump is not None and number in self.pump.busy))

    async def _turn(self, asked: Step) -> Step:
        """Wait until a recorded outcome is handed out or a new step may start; park what is not due."""
        if not asked.position and (asked.due or asked.kind == "sleep"):
            plan = self.recorder.plan([Asked(asked.number, asked.name, asked.kind, asked.due, asked)])[0]
            if plan == "park":
                self.share().pending[asked.number] = asked
                await self.share().park(asked, asked.due)
        return await self.share().turn(asked) if self.share().replaying else asked

    def _recall(self, asked: Step, codec: Codec[T]) -> T:
        if asked.state == "failed":
            raise _final(asked)
        try:
            return codec.decode(asked.value or "null")
        except Exception as error:
            self.refuse(unreadable(asked, codec, error))
            raise asyncio.CancelledError from None

    def _failed(self, asked: Step, error: Exception, retry: RetryPolicy | None) -> Step:
        """What a failure makes of a step: pending until it is tried again, or failed."""
        limit = rate_limit(error)
        if limit is not None:
            until = self.now() + limit.delay_ms
            self.limit = max(self.limit or (0, ""), (until, describe(error)))
            return asked
        number, name, failures = asked.number, asked.name, asked.failures + 1
        at = self.recorder.failed(Asked(number, name, "run", asked.due, asked), error, retry)
        if at is None:
            return Step(number, name, "run", "failed", self.replay.place(), None, report(error), failures)
        again = Step(number, name, "run", "pending", 0, None, describe(error), failures, at)
        self.share().pending[number] = again
        return again

    async def _commit(self, outcome: Step, last: bool = False) -> None:
        """Make an outcome durable, and wait until it is its turn to be handed out."""
        position = outcome.position
        if self.ending is not None:
            raise asyncio.CancelledError
        if last and not self.branches:
            self.riding = outcome
            return
        try:
            verdict = await self.recorder.record(outcome)
            if verdict != "recorded":
                self.end("lost" if verdict == "stale" else "cancelled")
                raise asyncio.CancelledError
            self.failures = 0
            if self.pump is None:
                self.passed = position
            elif self.pump.alone:
                self.pump.passed(position)
            else:
                await self.pump.hand(position)
        except asyncio.CancelledError:
            self.passed = position
            if self.pump is not None:
                self.pump.skip(position)
            raise
        except Exception as error:
            self.end("lost", error)
            raise asyncio.CancelledError from None


def _final(outcome: Step) -> StepFailed:
    """What the code sees of a failure that is final, on the first pass and on every replay alike."""
    error = outcome.error or ""
    failed = StepFailed(outcome.name, headline(error), attempts=outcome.failures)
    if frames := trace(error):
        failed.add_note(frames)
    return failed
