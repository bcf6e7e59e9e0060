"""A store and a plain model do the same operations, crashes included; what can be seen of them stays the same."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchflow.core import ids
from batchflow.core.batch import Canary, Failure, NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import NOTIFICATION_DESTINATION, Claim, Message
from batchflow.core.run import NEVER, Step, StepKind
from batchflow.core.schedule import Cron, DueSchedules, Fire, NewSchedule, ScheduledStart
from batchflow.core.settlement import (
    Effect,
    Ending,
    FinishEntry,
    Listen,
    Notify,
    Publish,
    RecordPage,
    Settlement,
    StartItems,
    Unlisten,
)
from batchflow.core.store import Store
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.stores.model import COUNTS, Model

LEASE_MS = 30_000
DESTINATIONS = ("work", "entry", "page", "execute", "complete", NOTIFICATION_DESTINATION)
FLOWS = {
    "free": FlowControl(key="free"),
    "two": FlowControl(key="two", parallelism=2),
    "one": FlowControl(key="one", parallelism=1),
}
OWN = {"u1": FLOWS["one"], "u2": FLOWS["two"], "u3": FlowControl(key="own", parallelism=1)}
"""The limits of the items that have a flow key of their own: two share it with messages and batches."""
FLOWS["own"] = OWN["u3"]
KEYS = st.sampled_from(sorted(FLOWS))
RUNS = st.sampled_from(["a", "b", "c", "d"])
WORKFLOW_OF = {"bat_a": "welcome", "bat_b": "welcome", "bat_c": "welcome", "bat_d": "farewell", "bat_e": "farewell"}
NOTIFYING = ("bat_b", "bat_e")
BATCHES = st.sampled_from(sorted(WORKFLOW_OF))
RETRIES = st.sampled_from(["bat_r", "bat_s"])
WORKERS = st.sampled_from(["w1", "w2"])
USERS = st.lists(st.sampled_from(["u1", "u2", "u3", "u4", "u5"]), max_size=4)
ENDINGS: st.SearchStrategy[Ending] = st.sampled_from(
    ["done", "done", "done", "failed", "suspended", "retry", "parked", "released", "dead", "cancelled"]
)
PRIORITIES = st.sampled_from([0, 0, 1, 9])
DELAYS = st.sampled_from([0, 1, 7, 1_000])
SCHEDULES = st.sampled_from(["s1", "s2"])
EVENTS = st.sampled_from(["paid", "sent"])
FAILURES = (Failure("Boom", "job.py:1 in execute", "Boom: no"),)
TABLES = ("arrival", "listener", "kept_event")


class StoreMachine(RuleBasedStateMachine):
    """Operations in any order, of claims that are held and of claims that were lost long ago."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.store: Store = self.runner.run(self._open())
        self.model = Model({key: flow.parallelism for key, flow in FLOWS.items()})
        self.claims: list[Claim] = []
        self.pages = 0
        self.fired = 0

    async def _open(self) -> Store:
        store = SqliteStore(":memory:", clock=self.clock)
        await store.open()
        return store

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    def do(self, verb: str, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.store, verb)(*arguments, **options)

        return self.runner.run(call())

    @property
    def now(self) -> int:
        return self.clock.now()

    @initialize()
    def register(self) -> None:
        self.do("declare", list(FLOWS.values()))
        for worker in ("w1", "w2"):
            self.do("register", worker, LEASE_MS)

        # Two batches that want the same item and one of another workflow, and a page to come of each.
        for batch, users in (("bat_a", ["u1", "u2"]), ("bat_b", ["u2", "u3"]), ("bat_d", ["u2", "u3"])):
            self.open_batch(batch, "free", False)
            for claim in self._claim("w1", 20):
                if claim.destination == "entry":
                    self._settle(Settlement(claim.id, claim.fence, "done", effects=self._effects(claim, users, True)))

        # A run that waits for an event, and one that waits for a child, which has begun, and for the event.
        for run in ("c", "d"):
            self.publish(run, "free", 0, run == "c")
        waits, parent = sorted(claim for claim in self._claim("w1", 20) if claim.id in {"c", "d"})
        self._listen(waits, "paid", 0, suspends=True)
        self._invoke(parent, "free", 0, suspends=False)
        self._listen(parent, "paid", 0, suspends=True)
        self._claim("w2", 20)

    # What programs do

    @rule(id=RUNS, key=KEYS, delay=DELAYS, keep=st.booleans())
    def publish(self, id: str, key: str, delay: int, keep: bool) -> None:
        due = self.now + delay if delay else 0
        message = Message(id=id, destination="work", flow=FLOWS[key], not_before=due, keep=keep)
        assert list(self.do("publish", [message])) == [self.model.publish(id, "work", key, due, keep=keep)]

    @rule(id=BATCHES, key=KEYS, force=st.booleans(), priority=PRIORITIES, canary=st.sampled_from([None, 1, 3]))
    def open_batch(self, id: str, key: str, force: bool, priority: int = 0, canary: int | None = None) -> None:
        self._open_batch(id, key, force, None, priority, canary)

    @precondition(lambda self: "bat_a" in self.model.batches)
    @rule(id=RETRIES, key=KEYS, force=st.booleans(), priority=PRIORITIES)
    def open_retry(self, id: str, key: str, force: bool, priority: int) -> None:
        self._open_batch(id, key, force, "bat_a", priority)

    def _open_batch(
        self, id: str, key: str, force: bool, retry_of: str | None, priority: int, canary: int | None = None
    ) -> None:
        entry = Message(id=ids.entry_id(id), destination="entry", flow=FLOWS[key], batch=id)
        flow = FLOWS[key]
        workflow = WORKFLOW_OF[retry_of or id]
        batch = NewBatch(
            id=id,
            workflow=workflow,
            execute="execute",
            flow=flow,
            complete="complete",
            complete_flow=flow,
            force=force,
            retry_of=retry_of,
            priority=priority,
            notify_url="https://hooks.example.com" if id in NOTIFYING else None,
            canary=None if canary is None else Canary(canary, 0.5),
        )
        opened = self.model.open_batch(
            id,
            key,
            entry.id,
            ledger=workflow,
            force=force,
            retry_of=retry_of,
            priority=priority,
            notifies=id in NOTIFYING,
        )
        if opened:
            self.model.batches[id]["canary"] = canary
        assert self.do("open_batch", batch, [entry]) == opened

    @rule(worker=WORKERS, limit=st.integers(1, 6))
    def claim(self, worker: str, limit: int) -> None:
        self._claim(worker, limit)

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data(), worker=WORKERS, age=st.sampled_from([0, 0, 0, 1, 2]), times=st.integers(1, 2))
    def claim_one(self, data: st.DataObject, worker: str, age: int, times: int) -> None:
        """Whatever its due time and its limits; with the fence before the latest, what the worker holds."""
        id = data.draw(st.sampled_from(sorted(self.model.messages)))
        fence = self.model.messages[id]["fence"] - age
        for _ in range(times):
            leases = self.model.claim_one(worker, id, fence, self.now)
            claims = self.do("claim_one", worker, id, fence).claims
            assert [claim.id for claim in claims] == [id] * leases
            for claim in claims:
                self.model.claimed_one(claim, worker, self.now)
                self.claims.append(claim)

    @rule(worker=WORKERS, ending=ENDINGS, users=USERS, more=st.booleans())
    def work(self, worker: str, ending: Ending, users: list[str], more: bool) -> None:
        """All that is due is claimed and ends alike."""
        for claim in self._claim(worker, 20):
            effects = self._effects(claim, users, more) if ending in {"done", "failed", "dead"} else ()
            fails = FAILURES if ending in {"retry", "parked"} or (more and ending in {"suspended", "dead"}) else ()
            error = "Boom: no" if ending in {"retry", "parked", "failed", "dead"} else None
            self._settle(
                Settlement(claim.id, claim.fence, ending, None, error, self.now, effects=effects, failures=fails)
            )

    @rule(ending=ENDINGS)
    def come_back_late(self, ending: Ending) -> None:
        """A worker wakes up after its claims went to another, and ends them all the same."""
        held = [claim for claim in self.claims if self.model.held(claim.id, claim.fence)]
        self.crash("w1")
        self.crash("w2")
        self._claim("w1", 20)
        for claim in held:
            step = self._step(claim, None)
            verdict = self.model.record(claim.id, claim.fence, step)
            assert self.do("record", claim.id, claim.fence, step) == verdict
            self._settle(Settlement(claim.id, claim.fence, ending, None, None, self.now))

    def _claim(self, worker: str, limit: int) -> list[Claim]:
        wanted = self.model.startable(worker, self.now)
        claimed = self.do("claim", worker, DESTINATIONS, limit)
        alone = any(self.model.is_suspect(id) for id in wanted)
        if alone or not wanted:
            assert [claim.id for claim in claimed.claims] == wanted
        for claim in claimed.claims:
            assert claim.id in wanted
            self.model.claimed(claim, worker, self.now)
            self.claims.append(claim)
        startable = self.model.startable(worker, self.now)
        assert len(claimed.claims) == limit or alone or not startable
        if startable and not alone:
            assert claimed.next_due is not None
            assert claimed.next_due <= self.now
        return list(claimed.claims)

    def _settle(self, ends: Settlement) -> None:
        assert self.do("settle", ends).stale == self.model.settle(ends, self.now)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), sleep=st.booleans(), delay=DELAYS)
    def record(self, data: st.DataObject, sleep: bool, delay: int) -> None:
        claim = data.draw(st.sampled_from(self.claims[-6:]))
        step = self._step(claim, delay if sleep else None)
        for _ in range(data.draw(st.integers(1, 2))):
            verdict = self.model.record(claim.id, claim.fence, step)
            assert self.do("record", claim.id, claim.fence, step) == verdict

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), ending=ENDINGS, delay=DELAYS, users=USERS, more=st.booleans())
    def settle(self, data: st.DataObject, ending: Ending, delay: int, users: list[str], more: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims[-6:]))
        steps: tuple[Step, ...] = ()
        if ending in {"suspended", "retry", "parked", "released"} and data.draw(st.booleans()):
            steps = (self._step(claim, delay if ending in {"suspended", "released"} else None),)
        effects: tuple[Effect, ...] = ()
        if ending == "done":
            effects = (*self._effects(claim, users, more), *((Notify("paid", "3"),) if more else ()))
        elif ending == "suspended" and more:
            effects = (Unlisten((1, 3)),)
        due = self.now + delay if ending in {"suspended", "retry", "parked"} else 0
        error = "Boom: no" if ending in {"retry", "parked", "dead", "failed"} else None
        result = '"ok"' if ending in {"done", "failed"} else None
        ends = Settlement(claim.id, claim.fence, ending, result, error, due, steps, effects)
        for _ in range(data.draw(st.integers(1, 2))):
            self._settle(ends)

    # What they wait for

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), event=EVENTS, timeout=DELAYS, suspends=st.booleans(), with_it=st.booleans())
    def wait(self, data: st.DataObject, event: str, timeout: int, suspends: bool, with_it: bool) -> None:
        """A step begins to wait for an event; without a timeout where that is 0."""
        self._listen(self._held(data), event, timeout, suspends, with_it)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), key=KEYS, delay=DELAYS, keep=st.booleans(), suspends=st.booleans(), with_it=st.booleans())
    def invoke(self, data: st.DataObject, key: str, delay: int, keep: bool, suspends: bool, with_it: bool) -> None:
        """A step begins to wait for a child."""
        self._invoke(self._held(data), key, delay, suspends, with_it, keep=keep)

    def _listen(self, claim: Claim, event: str, timeout: int, suspends: bool, with_it: bool = False) -> None:
        until = self.now + timeout if timeout else 0
        step = self._pending(claim, "wait", until)
        self._begin(claim, step, Listen(step.number, event, until), until or NEVER, suspends, with_it)

    def _invoke(
        self, claim: Claim, key: str, delay: int, suspends: bool, with_it: bool = False, *, keep: bool = False
    ) -> None:
        step = self._pending(claim, "invoke", 0)
        child = Message(
            id=f"{claim.id}.{step.number}",
            destination="work",
            flow=FLOWS[key],
            not_before=self.now + delay,
            keep=keep,
            parent=(claim.id, step.number),
        )
        self._begin(claim, step, Publish((child,)), NEVER, suspends, with_it)

    @rule(event=EVENTS, value=st.sampled_from(["1", "2"]), scoped=st.booleans(), data=st.data())
    def notify(self, event: str, value: str, scoped: bool, data: st.DataObject) -> None:
        known = sorted({*self.model.messages, "a", "b"})
        run = data.draw(st.sampled_from(known)) if scoped else None
        told = self.model.notify(event, value, run, self.now)
        assert list(self.do("notify", event, value, run)) == told

    @precondition(lambda self: self.model.parents())
    @rule(data=st.data())
    def cancel_parent(self, data: st.DataObject) -> None:
        self.cancel_run(data.draw(st.sampled_from(self.model.parents())))

    def _held(self, data: st.DataObject) -> Claim:
        held = [claim for claim in self.claims if self.model.held(claim.id, claim.fence)]
        return data.draw(st.sampled_from(held or self.claims[-6:]))

    def _pending(self, claim: Claim, kind: StepKind, due: int) -> Step:
        return self._step(claim, 0)._replace(kind=kind, due=due, at=self.now)

    def _begin(self, claim: Claim, step: Step, effect: Effect, until: int, suspends: bool, with_it: bool) -> None:
        """Recorded by itself, twice, and perhaps suspended after it, or together with the suspension."""
        if not with_it:
            for _ in range(2):
                verdict = self.model.record(claim.id, claim.fence, step, (effect,), self.now)
                assert self.do("record", claim.id, claim.fence, step, (effect,)) == verdict
        if suspends or with_it:
            steps, effects = ((step,), (effect,)) if with_it else ((), ())
            self._settle(Settlement(claim.id, claim.fence, "suspended", due=until, steps=steps, effects=effects))

    def _step(self, claim: Claim, delay: int | None) -> Step:
        message = self.model.messages.get(claim.id)
        journal = [] if message is None else self.model.journal(message)
        number = max((step.number for step in journal), default=0) + 1
        if delay is not None:
            return Step(number, f"nap{number}", "sleep", "pending", due=self.now + delay)
        position = max((step.position for step in journal), default=0) + 1
        return Step(number, f"step{number}", "run", "done", position=position, value=f'"{number}"')

    def _effects(self, claim: Claim, users: list[str], more: bool) -> tuple[Effect, ...]:
        if claim.batch is None or claim.destination not in {"entry", "page"}:
            return ()
        effects: list[Effect] = [FinishEntry(claim.batch)] if claim.destination == "entry" else []
        self.pages += 1
        if more:
            batch = self.model.batches[claim.batch]
            flow, held = FLOWS[batch["flow"]], bool(batch["canary"])
            id = ids.page_id(claim.batch, self.pages)
            page = Message(id=id, destination="page", flow=flow, batch=claim.batch, held=held)
            effects.append(Publish((page,)))
        effects.append(RecordPage(claim.batch, len(users)))
        numbers = self.model.numbers_in_origin(claim.batch, users)
        own = tuple(OWN.get(user) for user in users) if self.pages % 2 else ()
        effects.append(StartItems(claim.batch, self.pages * 10, tuple(users), again=numbers, flows=own))
        return tuple(effects)

    # What operators do

    @rule(id=RUNS)
    def cancel_run(self, id: str) -> None:
        assert self.do("cancel_run", id) == self.model.cancel_run(id, self.now)

    @rule(ids=st.lists(RUNS, max_size=4))
    def cancel_runs(self, ids: list[str]) -> None:
        expected = [self.model.cancel_run(id, self.now) for id in ids].count(True)
        assert self.do("cancel_runs", ids=ids) == expected

    @precondition(lambda self: any(message["batch"] for message in self.model.messages.values()))
    @rule(data=st.data())
    def cancel_run_of_batch(self, data: st.DataObject) -> None:
        mine = sorted(id for id, message in self.model.messages.items() if message["batch"])
        self.cancel_run(data.draw(st.sampled_from(mine)))

    @rule(id=BATCHES)
    def cancel_batch(self, id: str) -> None:
        assert self.do("cancel_batch", id) == self.model.cancel_batch(id, self.now)

    @rule(id=BATCHES, paused=st.booleans())
    def pause_batch(self, id: str, paused: bool) -> None:
        verb = "pause_batch" if paused else "resume_batch"
        assert self.do(verb, id) == self.model.pause_batch(id, paused)

    @rule(id=BATCHES, priority=PRIORITIES)
    def set_batch_priority(self, id: str, priority: int) -> None:
        assert self.do("set_batch_priority", id, priority) == self.model.set_batch_priority(id, priority)

    @rule(id=BATCHES)
    def approve_batch(self, id: str) -> None:
        assert self.do("approve_batch", id) == self.model.approve_batch(id)

    @precondition(lambda self: self.model.dead)
    @rule(data=st.data(), restart=st.booleans())
    def redrive(self, data: st.DataObject, restart: bool) -> None:
        id = data.draw(st.sampled_from([*sorted(self.model.dead), "a"]))
        assert self.do("redrive", id, restart=restart) == self.model.redrive(id, restart)

    @precondition(lambda self: self.model.dead)
    @rule(data=st.data())
    def delete_dead_letter(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from([*sorted(self.model.dead), "a"]))
        assert self.do("delete_dead_letter", id) == self.model.delete_dead_letter(id)

    @rule(key=KEYS, limit=st.sampled_from([None, 1, 3]), lasts=st.sampled_from([None, 5, 500]))
    def pin(self, key: str, limit: int | None, lasts: int | None) -> None:
        until = None if limit is None or lasts is None else self.now + lasts
        if limit is None:
            self.do("unpin", key)
        else:
            self.do("pin", FlowControl(key=key, parallelism=limit), until)
        self.model.flows[key].update(pin=limit, pin_until=until)

    @rule(key=KEYS, paused=st.sampled_from([False, False, False, True]), lasts=st.sampled_from([None, 5, 500]))
    def pause(self, key: str, paused: bool, lasts: int | None) -> None:
        until = None if not paused or lasts is None else self.now + lasts
        if paused:
            self.do("pause", key, until)
        else:
            self.do("resume", key)
        self.model.flows[key].update(paused=paused, paused_until=until)

    @rule(key=KEYS)
    def reset(self, key: str) -> None:
        self.do("reset", key)
        self.model.flows[key].update(pin=None, pin_until=None, paused=False, paused_until=None, parked_until=0)

    # Schedules

    @rule(id=SCHEDULES, hour=st.sampled_from([3, 4]), delay=DELAYS)
    def put_schedule(self, id: str, hour: int, delay: int) -> None:
        cron = Cron(f"0 {hour} * * *")
        self.do("put_schedule", NewSchedule(id=id, target="work", destination="work", cron=cron), self.now + delay)
        self.model.put_schedule(id, cron.expression, self.now + delay)

    @rule(id=SCHEDULES, paused=st.booleans(), delay=DELAYS)
    def pause_schedule(self, id: str, paused: bool, delay: int) -> None:
        verb, rest = ("pause_schedule", ()) if paused else ("resume_schedule", (self.now + delay,))
        assert self.do(verb, id, *rest) == self.model.pause_schedule(id, paused, self.now + delay)

    @rule(id=SCHEDULES)
    def delete_schedule(self, id: str) -> None:
        assert self.do("delete_schedule", id) == (self.model.schedules.pop(id, None) is not None)

    @rule(delay=st.sampled_from([1, 7, 1_000]), late=st.booleans())
    def fire_schedules(self, delay: int, late: bool) -> None:
        """All that are due fire, each once, whoever else has seen them."""
        due = {id for id, it in self.model.schedules.items() if not it["paused"] and it["next_at"] <= self.now}
        found: DueSchedules = self.do("due_schedules", ["work"])
        assert {status.id for status in found.due} == due
        for status in found.due:
            self.fired += 1
            run = Message(
                id=f"{status.id}-{self.fired}",
                destination="work",
                flow=FLOWS["free"],
                open_dedup=f"schedule:{status.id}",
            )
            start = ScheduledStart(None, (run,))
            fire = Fire(
                id=status.id, version=status.version, at=status.next_at or 0, next_at=self.now + delay, start=start
            )
            expected = self.model.fire_schedule(status.id, run.id, self.now + delay)
            outcome = self.do("fire_schedule", fire).outcome
            assert outcome == expected
            if late:
                assert self.do("fire_schedule", fire).outcome == "stale"

    # What happens to them

    @rule(worker=WORKERS)
    def crash(self, worker: str) -> None:
        """The worker's lease ends; the other one's is renewed in time."""
        other = "w2" if worker == "w1" else "w1"
        self.clock.advance(f"{LEASE_MS}ms")
        self.model.end_timed_limits(self.now)
        self.do("register", other, LEASE_MS)
        assert self.do("expire") == self.model.expire(worker, self.now)
        self.do("register", worker, LEASE_MS)

    @rule(worker=WORKERS)
    def leave(self, worker: str) -> None:
        self.do("deregister", worker)
        self.model.deregister(worker, self.now)
        self.do("register", worker, LEASE_MS)

    @rule(ms=st.sampled_from([1, 7, 1_000]))
    def pass_time(self, ms: int) -> None:
        self.clock.advance(f"{ms}ms")
        self.model.end_timed_limits(self.now)
        for worker in ("w1", "w2"):
            self.do("register", worker, LEASE_MS)

    # What can be seen

    @invariant()
    def same(self) -> None:
        self.model.recode()
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        model, store = self.model, self.store
        for status in await store.flows(list(FLOWS)):
            key = status.limits.key or ""
            waiting = sum(m["owner"] is None and key in model.keys(m) for m in model.messages.values())
            flow = model.flows[key]
            limit = model.limit(key)
            assert (status.in_use, status.waiting, status.limits.parallelism) == (flow["in_use"], waiting, limit), key
            untils = status.parallelism_until, status.paused_until
            assert (status.paused, *untils) == (flow["paused"], flow["pin_until"], flow["paused_until"]), key
        for id, batch in model.batches.items():
            await self._compare_batch(id, batch)
        for id in {*model.messages, *model.runs, *model.dead, "a", "b", "c", "d"}:
            found = await store.run(id)
            assert (found.state if found else None) == self._state(id), id
            if id in model.messages and found:
                assert list(found.journal) == model.journal(model.messages[id])
        seen = [(it.id, it.paused, it.next_at, it.fires, it.skips) for it in await store.schedules()]
        assert seen == [
            (id, it["paused"], it["next_at"], it["fires"], it["skips"]) for id, it in sorted(model.schedules.items())
        ]
        for event in ("paid", "sent"):
            waiters = [(row["run"], row["since"], row["until"] or None) for row in model.waiters(event, self.now)]
            found = [(waiter.run, waiter.since, waiter.until) for waiter in await store.waiters(event)]
            assert found == waiters, event
        assert {it.name: dict(it.holds) for it in await store.workers()} == {it: model.holds(it) for it in ("w1", "w2")}
        assert self._rows() == [len(rows) for rows in (model.arrivals, model.listeners, model.kept)]
        assert {letter.id for letter in await store.dead_letters(limit=1_000)} == set(model.dead)
        for ledger in ("welcome", "farewell"):
            marked = await store.processed(ledger, ["u1", "u2", "u3", "u4", "u5"])
            assert marked == {name.split()[1] for name in model.marks if name.startswith(f"{ledger} ")}

    async def _compare_batch(self, id: str, expected: dict[str, Any]) -> None:
        batch = await self.store.batch(id)
        assert batch is not None
        assert batch.counts._asdict() == {name: expected["counts"][name] for name in COUNTS}
        seen = (batch.state, batch.working, batch.pages, batch.error is not None, batch.ended_at is not None)
        assert seen == tuple(expected[name] for name in ("state", "working", "pages", "broken", "ended"))
        assert (batch.paused, batch.priority) == (expected["paused"], expected["priority"])
        assert (batch.retry_of, batch.recovered) == (expected["retry_of"], expected["recovered"])
        assert batch.replaced._asdict() == expected["replaced"]
        assert batch.needs_approval == bool(expected["canary"])
        assert (batch.completion_error is not None) == expected["incomplete"]
        assert (batch.notification and batch.notification.state) == expected["notification"]
        assert sum(group.attempts for group in batch.errors) == expected["failures"]
        assert sum(group.items for group in batch.errors) == expected["failed_items"]
        found = await self.store.items(id, limit=1_000)
        for item in found:
            message = self.model.messages.get(run := ids.item_run_id(id, item.number)) or self.model.dead.get(run)
            assert message is None or item.attempts == message["attempts"]
        listed = await self.store.open_messages(id, limit=1_000)
        assert {it.number for it in listed} == {item.number for item in found if item.state == "open"}
        states = [it.state for it in listed]
        assert (states.count("retrying"), states.count("parked")) == (batch.counts.retrying, batch.counts.parked)
        assert len(await self.store.open_messages(id, layers=True, limit=1_000)) == batch.working
        items = {str(item.number): (item.id, item.state) for item in found}
        assert items == {number: (item["id"], item["state"]) for number, item in expected["items"].items()}
        if batch.state in {"sealed", "completed"}:
            counts = batch.counts
            assert counts.eligible == counts.started + counts.skipped + counts.left_out

    def _rows(self) -> list[int]:
        """The sizes of the tables of waits: nothing of a run that has ended, for the model has none."""
        reading = vars(self.store)["_writer"].connection
        return [reading.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]

    def _state(self, id: str) -> str | None:
        message = self.model.messages.get(id)
        if message is not None:
            return "waiting" if message["owner"] is None else "running"
        return "failed" if id in self.model.dead else self.model.runs.get(id)


class TestSqliteAgainstTheModel(StoreMachine.TestCase):
    """The SQLite store in memory."""

    settings = settings(
        max_examples=80,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        # Not shrunk: that takes minutes, and a test that takes as long is ended. `reproduce_failure` is printed.
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow],
    )
