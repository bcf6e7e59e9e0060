"""The machine of one attempt: runs the steps that the code asks for, makes them durable, says when nothing goes on."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from batchflow.core.codec import Codec
from batchflow.core.limit import DEFAULT
from batchflow.core.message import Claim
from batchflow.core.ports import Asked, Lease, StandIn
from batchflow.core.replay import Replay
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Step, StepKind
from batchflow.core.settlement import Effect
from batchflow.errors import ReplayError, StepFailed, StoreError
from batchflow.serve.attempt import Attempt
from batchflow.serve.callables import within
from batchflow.serve.delivering import INSIDE, Inside
from batchflow.serve.failure import describe, headline, limit_ms, rate_limit, report, trace
from batchflow.serve.leaving import is_end
from batchflow.serve.recorder import DirectRecorder
from batchflow.serve.refusal import after_last, check_name, nested, unreadable, unstorable

T = TypeVar("T")


class Options(NamedTuple):
    """What is set for one step; `last`: its outcome goes with the settlement, and only such steps may follow.

    `effects`, of the result, are written together with it.
    """

    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    last: bool = False
    effects: Callable[[Any], tuple[Effect, ...]] | None = None


PLAIN = Options()
LAST = Options(last=True)

# Made for every step there is; the constructor of a named tuple takes three times as long.
_new: Callable[..., Step] = tuple[Any, ...].__new__


class Driver(Attempt):
    """Runs the steps of one attempt and makes their outcomes durable."""

    __slots__ = ("failures", "handling", "largest", "limit", "loop", "recorder", "riding", "stand_in", "tell", "time")

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
        self.handling: list[tuple[BaseException, str]] = []
        """The exceptions that were being handled when new steps were asked for, with those steps."""
        self.riding: tuple[Step, ...] = ()
        """The outcomes of the last steps, which go with the settlement."""
        self.time = claim.started_at
        """The run's own time: when the latest outcome was recorded that the code has seen."""
        self.stand_in: StandIn | None = None
        self.largest = DEFAULT
        """What each step's result is held to."""
        self.tell: Callable[[str, str | None], None] | None = None
        """Is told of what happens, by type and step, when the function is verbose."""

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
        check_name(name)
        # Nearly all runs are fresh and have no branches; they pay for nothing else.
        fresh = 0
        recorder = self.recorder
        if recorder.interrupts.requested:
            self.heed_interruption()
        if self.idle and sys.exc_info()[1] is None and asyncio.current_task(self.loop) is self.root:
            fresh = self.replay.begin(name)
        if fresh:
            asked, number = None, fresh
            self.idle = False
            self.solo = inside = (self.run_id, number, name)
            INSIDE.set(inside)
        else:
            asked = await self._ask(name, "run", last=options.last)
            number = asked.number
        try:
            if asked is not None:
                asked = await self._turn(asked)
                if asked.position:
                    return self._recall(asked, codec)
                self._enter(number, name)
            if (lease := recorder.lease) is not None and lease.is_doubtful(recorder.losses):
                await self._assure(lease)
            value: Any = None
            if self.stand_in is not None:
                fn = self.stand_in(self.run_id, name, fn)
            if self.tell is not None:
                self.tell("RUN_PARALLEL" if self._has_branches else "RUN_SINGLE", name)
            try:
                if options.timeout_ms is None:
                    value = await fn(*args, **kwargs)
                else:
                    value = await within(options.timeout_ms, fn, args, kwargs)
                text, value = codec.round_trip(value, where=f"step '{name}'")
                if len(text) > self.largest.sure:
                    self.largest.check(text, f"step '{name}'")
                at = recorder.clock.now()
                failures = asked.failures if asked is not None else 0
                outcome = _new(Step, (number, name, "run", "done", self.replay.place(), text, None, failures, 0, at))
            except BaseException as error:
                # What would take the worker along, and the next one, is a failure like any other.
                if isinstance(error, asyncio.CancelledError) or is_end(error, self._executing(number), self.loop):
                    raise
                outcome = self._failed(asked or Step(number, name, "run", "pending"), error, options.retry)
            if outcome.position:
                wanted = options.effects
                effects = wanted(value) if wanted is not None and outcome.state == "done" else ()
                await self._commit(outcome, options.last, effects)
            else:
                await self.share().park(outcome, outcome.due)
            if outcome.state == "failed":
                raise _final(outcome)
            return value
        finally:
            self._leave(number)

    async def sleep(self, name: str, due: int) -> None:
        """Come back once it is `due`, or what is recorded as due."""
        asked = await self._ask(name, "sleep")
        try:
            if not asked.position and not asked.due:
                asked = asked._replace(due=due)
                if not self.branches:
                    # Tasks that were just made get to ask for what they are for.
                    await asyncio.sleep(0)
                if self.branches:
                    # What executes beside it may take long, and a crash would start it anew.
                    if self.share().replaying:
                        asked = await self.share().turn(asked)
                    self._enter(asked.number, name)
                    await self._store(asked, ())
                elif self.tell is not None:
                    self.tell("SUBMIT_STEP", name)
            asked = await self._turn(asked)
            if not asked.position:
                self._enter(asked.number, name)
                await self._commit(self._done(asked, "null"))
            self._see(asked)
        finally:
            self._leave(asked.number)

    async def wait(
        self, name: str, kind: StepKind, effects: Callable[[int], tuple[Effect, ...]], *, due: int = 0
    ) -> Step:
        """The outcome of a step for something from outside, at the latest at `due` (0: as long as it takes).

        `effects`, of the step's number, start what it waits for; they are written when it is asked for first, so that
        nothing is missed that comes while other branches execute.
        """
        asked = await self._ask(name, kind)
        number = asked.number
        try:
            if not asked.position and asked.at:
                await self.share().park(asked, asked.due or NEVER)
            asked = await self._turn(asked)
            if not asked.position:
                asked = asked._replace(due=due, at=self.now())
                self._enter(number, name)
                try:
                    await self._store(asked, effects(number))
                except asyncio.CancelledError:
                    self.share().withdraw(asked)
                    raise
                await self.share().park(asked, due or NEVER)
            self._see(asked)
            if self.tell is not None and kind == "call" and asked.at >= self.replay.newest:
                self.tell("SUBMIT_THIRD_PARTY_RESULT", name)
            return asked
        finally:
            self._leave(number)

    async def note(
        self, name: str, codec: Codec[T], make: Callable[[], T], effects: Callable[[T], tuple[Effect, ...]]
    ) -> T:
        """The result of a step that does nothing but write `effects`, once, together with its outcome."""
        asked = await self._ask(name, "run")
        try:
            asked = await self._turn(asked)
            if asked.position:
                return self._recall(asked, codec)
            self._enter(asked.number, name)
            value = make()
            await self._commit(self._done(asked, codec.encode(value)), effects=effects(value))
            return value
        finally:
            self._leave(asked.number)

    def heed_interruption(self) -> None:
        """Let nothing more start where the engine has cancelled the root, also while it unwinds."""
        if self.recorder.interruption:
            self.end("interrupted")

    @property
    def inside(self) -> str | None:
        """The name of the step in which the code is that asks."""
        inside = INSIDE.get()
        return inside[2] if inside is not None and self._is_under_way(inside) else None

    @property
    def replaying(self) -> bool:
        """Whether the code does again what it did on an earlier attempt."""
        return self.replay.upcoming is not None

    @property
    def _has_branches(self) -> bool:
        return any(not branch.done() for branch in self.branches)

    def _done(self, asked: Step, value: str) -> Step:
        at = self.now()
        return asked._replace(state="done", position=self.replay.place(), value=value, due=0, at=at)

    def _see(self, outcome: Step) -> None:
        self.time = max(self.time, outcome.at)

    def _enter(self, number: int, name: str) -> None:
        """A step starts to execute."""
        self.share().enter(number)
        INSIDE.set((self.run_id, number, name))

    async def _ask(self, name: str, kind: StepKind, *, last: bool = False) -> Step:
        """Register a request."""
        check_name(name)
        task = asyncio.current_task()
        if self.recorder.interrupts.requested:
            self.heed_interruption()
        if self.ending is not None:
            await self.turn_away(name)
        inside = INSIDE.get()
        if inside is not None and self._is_under_way(inside):
            self.refuse(nested(name, inside[2]))
            raise asyncio.CancelledError
        if self.riding and not last:
            self.refuse(after_last(name, self.riding[-1].name))
            raise asyncio.CancelledError
        try:
            asked = self.replay.ask(name, kind)
        except ReplayError as error:
            self.refuse(error)
            raise asyncio.CancelledError from None
        if not asked.position and (error := sys.exc_info()[1]) is not None:
            self.handling.append((error, name))
        pump = self.share()
        pump.open[asked.number] = name
        if task is not None and task is not self.root:
            if not self.branches:
                self.recorder.when_interrupted(self.heed_interruption)
            self.branches.add(task)
            pump.alone = False
        if not pump.alone:
            pump.stir()
        return asked

    def _leave(self, number: int) -> None:
        """A request has come back, in whatever way."""
        self.solo = None
        if self.recorder.interrupts.requested:
            self.heed_interruption()
        if self.pump is None:
            self.idle = self.ending is None and not self.riding
        else:
            self.pump.leave(number)

    def _executing(self, number: int) -> "asyncio.Task[Any] | None":
        """The task in which a step executes."""
        return self.root if self.pump is None else self.pump.busy.get(number, (None, 0))[0]

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
        self._see(asked)
        if asked.state == "failed":
            raise _final(asked)
        try:
            return codec.decode(asked.value or "null")
        except Exception as error:
            self.refuse(unreadable(asked, codec, error))
            raise asyncio.CancelledError from None

    def _failed(self, asked: Step, error: BaseException, retry: RetryPolicy | None) -> Step:
        """What a failure makes of a step: pending until it is tried again, or failed."""
        limit = rate_limit(error)
        if limit is not None:
            until = self.now() + limit_ms(limit, retry or self.recorder.policy)
            self.limit = max(self.limit or (0, ""), (until, describe(error)))
            return asked
        number, name, failures = asked.number, asked.name, asked.failures + 1
        at = self.recorder.failed(Asked(number, name, "run", asked.due, asked), error, retry)
        if at is None:
            place, at = self.replay.place(), self.now()
            return Step(number, name, "run", "failed", place, None, report(error), failures, at=at)
        again = Step(number, name, "run", "pending", 0, None, describe(error), failures, at)
        self.share().pending[number] = again
        return again

    async def _commit(self, outcome: Step, last: bool = False, effects: tuple[Effect, ...] = ()) -> None:
        """Make an outcome durable, and wait until it is its turn to be handed out."""
        position = outcome.position
        if self.ending is not None and self.ending != "interrupted":
            raise asyncio.CancelledError
        if last and not self.branches:
            self.riding = (*self.riding, outcome)
            return
        try:
            await self._store(outcome, effects)
            if self.ending is not None:
                raise asyncio.CancelledError
            self.failures = 0
            if self.recorder.always_replay:
                self.share().skip(position)
                await self.share().park(outcome, self.now())
            if self.pump is None:
                self.passed = position
            elif self.pump.alone:
                self.pump.passed(position)
            else:
                await self.pump.hand(outcome.number, position)
            # Not before it is handed out: what others are handed first has an earlier time, as on a replay.
            if self.time < outcome.at:
                self.time = outcome.at
        except asyncio.CancelledError:
            self.passed = position
            if self.pump is not None:
                self.pump.skip(position)
            raise

    async def _assure(self, lease: Lease) -> None:
        """A worker that was suspended past its lease starts nothing that others have done meanwhile."""
        if not await lease.holds(self.recorder.losses):
            self.end("lost")
            raise asyncio.CancelledError

    async def _store(self, step: Step, effects: tuple[Effect, ...]) -> None:
        """Have a step recorded; whoever cannot has lost the claim, and goes on with nothing."""
        try:
            try:
                verdict = await (self.recorder.record(step, effects) if effects else self.recorder.record(step))
            except StoreError as error:
                if not error.retryable or self.recorder.insist is None:
                    raise
                # What was executed is not thrown away: it would have to be executed again.
                verdict = await self.recorder.insist(partial(self.recorder.record, step, effects), error)
        except Exception as error:
            if isinstance(error, StoreError) and not error.retryable:
                self.refuse(unstorable(step, error))
            else:
                self.end("lost", error)
            raise asyncio.CancelledError from None
        if verdict != "recorded":
            self.end("lost" if verdict == "stale" else "cancelled")
            raise asyncio.CancelledError
        if self.tell is not None:
            self.tell("SUBMIT_STEP", step.name)


def _final(outcome: Step) -> StepFailed:
    """What the code sees of a failure that is final, on the first pass and on every replay alike."""
    error = outcome.error or ""
    failed = StepFailed(outcome.name, headline(error), attempts=outcome.failures)
    if frames := trace(error):
        failed.add_note(frames)
    return failed
