"""The stage of an app on QStash: a QStash of ours, in memory, that calls the app without sockets in virtual time."""

from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import replace

import httpx
from fastapi import FastAPI

from batchflow.core.call import CALL_DESTINATION, CallRequest, call_request_codec
from batchflow.core.ids import is_of_batch
from batchflow.core.message import Claim, ClaimResult
from batchflow.core.ports import Clock, Observer, Plan, Recorder, RecordResult
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Run, Step
from batchflow.core.schedule import Cron
from batchflow.core.settlement import Effect, Publish, Settlement
from batchflow.core.store import Store
from batchflow.engine.cron import CronScheduler
from batchflow.engine.engine import Engine
from batchflow.engine.options import EngineOptions
from batchflow.engine.push_client import PushClient
from batchflow.engine.push_settings import PushSettings
from batchflow.engine.signing_keys import SigningKeys
from batchflow.http.reserved_routes import DELIVERIES
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.invoked_batches import INVOKED
from batchflow.qstash.receiver import Receiver
from batchflow.qstash.rest import QStashRest
from batchflow.server.app import QStashServer
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.app_client import APP_URL, TWINS, AppClient, Process, PushedPosts
from batchflow.testing.drive import drive_engine
from batchflow.testing.faults import FaultPlan
from batchflow.testing.history import History
from batchflow.testing.processes import DelayedClaims, RequestedStore
from batchflow.testing.records import FINAL_STATES
from batchflow.testing.stages import Play

QSTASH_URL = "https://qstash.test"
"""The address of the QStash of a test."""

TENANT = "test"
_EACH_MINUTE = Cron.parse("* * * * *")
_RETENTION_MS = 7 * 86_400_000


class _Counting:
    """Entropy whose ids count up: what is posted first is delivered first."""

    def __init__(self) -> None:
        self._count = 0

    def bytes(self, n: int, /) -> bytes:
        """See the port."""
        self._count += 1
        return (self._count % 256**n).to_bytes(n)

    def chance(self) -> float:
        """See the port."""
        return 0.5


class QStashOfTest:
    """A QStash in memory, which sends its requests by `client`; `open` makes an account of it."""

    def __init__(self, store: SqliteStore, clock: Clock, client: PushClient) -> None:
        self._store = store
        self._entropy = _Counting()
        self._clock = clock
        options = EngineOptions(concurrency=100, grace_s=0, retention_ms=_RETENTION_MS, threads=1)
        self.engine = Engine(store, {}, [], clock=clock, entropy=self._entropy, options=options)
        self.engine.push_client = client
        self.engine.enable_push(PushSettings())
        self.server = QStashServer(self.engine)

    async def open(self) -> QStashAccount:
        """Open it; returns its account."""
        await self.engine.open()
        token = await self.server.tokens.create(TENANT)
        keys = await SigningKeys(self._store, self._entropy, self._clock.now).of(TENANT)
        return QStashAccount(
            QStashRest(QSTASH_URL, token, transport=_WayToQStash(self.server)),
            Receiver(current_signing_key=keys.current, next_signing_key=keys.next),
            TENANT,
            telemetry=(),
        )


class _PostStore(SqliteStore):
    """The store of that QStash, whose deliveries may be late or in another order."""

    def __init__(self, clock: Clock, faults: FaultPlan) -> None:
        super().__init__(":memory:", clock=clock)
        self._delays = DelayedClaims(faults, clock.now)

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """See the protocol."""
        return self._delays.reschedule(await super().claim(worker, destinations, limit))

    async def deregister(self, worker: str) -> None:
        """See the protocol."""
        self._delays.release()
        await super().deregister(worker)


class CalledByQStash:
    """An app that a QStash calls: see `batchflow.testing.stages.Stage`."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._calls: dict[tuple[str, int], CallRequest] = {}
        posts = PushedPosts()
        self._client = AppClient(posts, play.caller, play.faults, self._calls, lambda: self._process, self._start_again)
        self._qstash = QStashOfTest(_PostStore(play.clock, play.faults), play.clock, self._client)
        self._qstash.engine.observers.add(posts)

    async def open(self, store: Store, overrides: ExitStack) -> None:
        """See the port."""
        play = self._play
        engine = play.app.engine
        assert isinstance(engine, QStashEngine)
        self._engine = engine
        self._store = store
        self._process = self._new_process()
        overrides.enter_context(
            engine.substituted(
                store=self._process, clock=play.clock, entropy=play.entropy, always_replay=play.always_replay
            )
        )
        account = await self._qstash.open()
        overrides.enter_context(engine.played(account, APP_URL, _EACH_MINUTE, self._observed))
        overrides.enter_context(engine.observers.observing(_Deliveries(play.history)))
        self._client.app = FastAPI()
        self._client.app.include_router(play.app.router)

    async def drive(self, until: int | None) -> None:
        """See the port."""
        play = self._play
        beside = _AppStore(self._engine, lambda: self._process)
        await drive_engine(self._qstash.engine, play.clock, rounds=play.rounds, until=until, beside=beside)

    async def run(self, id: str) -> Run | None:
        """See the port: QStash shows less of the steps than the deliveries of the run."""
        if is_of_batch(id):
            return await self._store.run(id)
        found = await self._engine.run_store.run(id)
        return None if found is None else replace(found, journal=())

    async def close(self) -> None:
        """See the port."""
        await self._qstash.engine.close()

    def _observed(self, claim: Claim, recorder: Recorder) -> Recorder:
        return _ObservedRecorder(claim.id, recorder, self._process, self._calls)

    def _new_process(self) -> RequestedStore:
        return RequestedStore(self._store, self._play.history, self._play.faults, {INVOKED})

    async def _start_again(self, process: Process) -> None:
        """Start another process in the place of one that has crashed, unless that is done."""
        if process is not self._process:
            return
        dead, self._process = self._process, self._new_process()
        dead.release_settlements()
        self._engine.store = self._process
        await self._engine.restart_batches()


class _ObservedRecorder:
    """The recorder of a delivery, in a process that may crash before a step has reached QStash, or after it."""

    def __init__(
        self, run: str, recorder: Recorder, process: RequestedStore, calls: dict[tuple[str, int], CallRequest]
    ) -> None:
        self._run = run
        self._recorder = recorder
        self._process = process
        self._calls = calls

    @property
    def clock(self) -> Clock:
        """See the port."""
        return self._recorder.clock

    @property
    def policy(self) -> RetryPolicy:
        """See the port."""
        return self._recorder.policy

    @property
    def stops(self) -> bool:
        """See the port."""
        return self._recorder.stops

    def check_step(self, retry: RetryPolicy) -> None:
        """See the port."""
        self._recorder.check_step(retry)

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """See the port."""
        return self._recorder.plan(asked, settled)

    def start(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """See the port."""
        for effect in effects:
            match effect:
                case Publish((message,)) if message.destination == CALL_DESTINATION:
                    self._calls[self._run, step.number] = call_request_codec().decode(message.body)
                case _:
                    pass
        return self._write(step, effects, self._recorder.start)

    def record(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """See the port."""
        return self._write(step, effects, self._recorder.record)

    def retry_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """See the port."""
        return self._recorder.retry_at(error, failures, retry)

    async def _write(
        self,
        step: Step,
        effects: tuple[Effect, ...],
        write: Callable[[Step, tuple[Effect, ...]], Awaitable[RecordResult]],
    ) -> RecordResult:
        if (twins := TWINS.get()) is not None:
            await twins.meet()
        return await self._process.write_step(self._run, step, effects, lambda: write(step, effects))


class _Deliveries(Observer):
    """Records the deliveries of runs in QStash; those of batches are known from the store."""

    def __init__(self, history: History) -> None:
        self._history = history

    def claimed(self, claim: Claim) -> None:
        """See the port."""
        run = self._history.runs.get(claim.id)
        if is_of_batch(claim.id) or claim.destination == INVOKED or (run is not None and run.state in FINAL_STATES):
            return
        known = {} if run is None else run.journal
        # The journal of an earlier entry may come later, and outcomes of QStash have no time of their own.
        journal = [
            step._replace(at=self._history.now_ms())
            for step in claim.journal
            if step.position or step.name not in known or not known[step.name].position
        ]
        self._history.on_claim(claim._replace(journal=tuple(journal)))

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """See the port."""
        run = self._history.runs.get(claim.id)
        if not is_of_batch(claim.id) and run is not None and run.state not in FINAL_STATES:
            self._history.on_settle(settlement)


class _AppStore:
    """The store of the app: see `batchflow.testing.drive.Beside`.

    It takes the place of the regular calls of the app (`QStash(relay_cron=…)`), nearly all of which find nothing to do:
    a test that passes years does not make them.
    """

    def __init__(self, engine: QStashEngine, process: Callable[[], RequestedStore]) -> None:
        self._engine = engine
        self._process = process
        self._due: int | None = None
        self._cron: CronScheduler | None = None
        self._of: RequestedStore | None = None

    @property
    def next_fire(self) -> int | None:
        """See the port."""
        return None if self._cron is None else self._cron.next_at

    async def next_due(self) -> int | None:
        """See the port; QStash knows whole seconds."""
        await self._engine.give_due()
        due = self._process().next_due
        self._due = None if due is None else -(-due // 1000) * 1000
        return self._due

    async def give_due(self) -> None:
        """See the port."""
        now = self._engine.now()
        if self._cron is None or self._of is not self._process():
            # It is the store of a process, which may have crashed.
            self._of, self._cron = self._process(), self._engine.make_cron()
            await self._cron.declare()
        fires = self._cron.next_at is not None and self._cron.next_at <= now
        await self._cron.fire_due()
        if fires or (self._due is not None and self._due <= now):
            self._due = None
            await self._engine.give_due()


class _WayToQStash(httpx.AsyncBaseTransport):
    """The way of the app to QStash, which leaves out the schedule of its regular calls."""

    def __init__(self, server: QStashServer) -> None:
        self._transport = httpx.ASGITransport(server)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See the class."""
        if request.method == "POST" and request.url.path == f"/v2/schedules/{APP_URL}{DELIVERIES}":
            return httpx.Response(200, json={"scheduleId": request.headers["upstash-schedule-id"]})
        return await self._transport.handle_async_request(request)
