"""A store that keeps posts and a plain model do the same operations; what can be seen of them stays the same."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchflow.core import settlement
from batchflow.core.message import Claim
from batchflow.core.posts import LogEntry, LogState, Post
from batchflow.core.settlement import Effect, LeaveQueue, Log, SendPosts
from batchflow.core.wire_store import WireStore
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.conformance.wire import new_post
from tests.stores.wire_run_model import WireRunModel

LEASE_MS = 30_000
TENANTS = ("acme", "other")
TENANT = st.sampled_from(TENANTS)
NUMBERS = st.integers(0, 11)
TIMES = st.sampled_from(["1ms", "1s", "1s", "10s", "10m"])
QUEUES = st.sampled_from(["q", "r"])
DEDUPS = st.sampled_from([None, None, "k1", "k2"])
DELAYS = st.sampled_from([0, 0, 1_000])
WORKERS = st.sampled_from(["w1", "w2"])
ENDS = st.sampled_from(["delivered", "delivered", "called back", "retry", "failed", "cancelled"])
WRITTEN: st.SearchStrategy[LogState] = st.sampled_from(["ACTIVE", "ERROR", "RETRY"])


class PostMachine(RuleBasedStateMachine):
    """What every machine of posts has: claims that are held, and claims that were given back long ago."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.store: Any = self.runner.run(self._open())
        assert isinstance(self.store, WireStore)
        self.model = WireRunModel()
        self.claims: list[Claim] = []
        self.callbacks = 0
        for worker in ("w1", "w2"):
            self.do("register", worker, LEASE_MS)

    async def _open(self) -> Any:
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

    # What programs do

    @rule(worker=WORKERS)
    def claim(self, worker: str) -> None:
        claims = self.do("claim", worker, ("work",), 100).claims
        assert sorted(claim.id for claim in claims) == self.model.claim(worker, self.now)
        self.claims += claims

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 99), ends=ENDS, delay=DELAYS)
    def settle(self, which: int, ends: str, delay: int) -> None:
        """End a claim, which may be an old one."""
        claim = self.claims[which % len(self.claims)]
        tenant, _, _ = claim.id.partition(".")
        last = {"delivered": "DELIVERED", "called back": "DELIVERED", "retry": "ERROR", "failed": "FAILED"}
        logged = [] if ends == "cancelled" else [self._entry(claim.id, last[ends])]
        sent: list[Post] = []
        heir: str | None = None
        if ends == "called back":
            self.callbacks += 1
            heir = f"{tenant}.callback{self.callbacks}"
            sent = [new_post(heir, tenant=tenant)]
        effects: tuple[Effect, ...] = (Log(tuple(logged)), SendPosts(tuple(sent)))
        if ends != "retry":
            effects += (LeaveQueue(claim.id, heir),)
        due = self.now + delay
        match ends:
            case "retry":
                made = settlement.retry(claim, due, "Boom: no")._replace(effects=effects)
            case "failed":
                made = settlement.dead(claim, "Boom: no", effects=effects)
            case "cancelled":
                made = settlement.cancelled(claim)
            case _:
                made = settlement.done(claim, "null", effects)
        held = self.model.holds(claim.id, claim.fence)
        assert self.do("settle", made).stale is not held
        if held:
            self._settle_in_model(claim.id, ends, due, logged, sent, heir)

    def _settle_in_model(
        self, id: str, ends: str, due: int, logged: list[LogEntry], sent: list[Post], heir: str | None
    ) -> None:
        message = self.model.messages[id]
        if ends == "cancelled" or (message.cancelled and ends in ("retry", "failed")):
            self.model.end_cancelled(id, self.now)
            return
        if ends == "retry":
            message.state, message.due = "waiting", due
        else:
            del self.model.messages[id]
        self.model.log(logged)
        self.model.send(sent, self.now)
        if ends != "retry":
            self.model.leave(id, heir)

    # What else happens

    @rule(worker=WORKERS)
    def restart(self, worker: str) -> None:
        """A worker ends and gives its claims back."""
        self.do("deregister", worker)
        self.do("register", worker, LEASE_MS)
        self.model.give_back(worker, self.now)

    @rule(time=TIMES)
    def advance(self, time: str) -> None:
        self.clock.advance(time)
        for worker in ("w1", "w2"):
            self.do("register", worker, LEASE_MS)

    @rule(time=TIMES, retention=st.sampled_from([500, 5_000]))
    def prune(self, time: str, retention: int) -> None:
        self.advance(time)
        while self.do("prune", retention):
            pass
        self.model.prune(self.now - retention, self.now)

    # What can be seen

    @invariant()
    def all_is_the_same(self) -> None:
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        # All in one group, which is faster.
        documents, *found = await asyncio.gather(
            self.store.documents("group"),
            *(self.store.log_entries(tenant, limit=1_000) for tenant in TENANTS),
            *(self.store.open_posts(tenant, limit=1_000) for tenant in TENANTS),
            *(self.store.queues(tenant) for tenant in TENANTS),
        )
        assert list(documents) == [document for _, document in sorted(self.model.documents.items())]
        for place, tenant in enumerate(TENANTS):
            entries, opened, queues = found[place :: len(TENANTS)]
            keys = [key for key, _ in entries]
            assert keys == sorted(set(keys), reverse=True)
            expected = [entry for entry in self.model.entries if entry.tenant == tenant]
            assert _by_post(entry for _, entry in reversed(entries)) == _by_post(expected)
            still_open = [entry for entry in self.model.open.values() if entry.tenant == tenant]
            assert [entry for _, entry in opened] == still_open
            known = [queue.seen() for (of, _), queue in sorted(self.model.queues.items()) if of == tenant]
            assert list(queues) == known

    def _entry(self, message: str, state: Any) -> LogEntry:
        return LogEntry(message, message.partition(".")[0], state, self.now, '{"n":1}')


class WireMachine(PostMachine):
    """Posts, their log and queues, and documents: operations in any order."""

    @initialize()
    def begin(self) -> None:
        for queue in ("q", "r"):
            self.post("acme", [1, 2, 3] if queue == "q" else [4, 5], None, queue, 0)
        self.claim("w1")

    @rule(
        tenant=TENANT,
        numbers=st.lists(NUMBERS, min_size=1, max_size=4),
        dedup=DEDUPS,
        queue=st.one_of(st.none(), QUEUES),
        delay=DELAYS,
    )
    def post(self, tenant: str, numbers: list[int], dedup: str | None, queue: str | None, delay: int) -> None:
        due = self.now + delay if delay else 0
        posts = [
            new_post(f"{tenant}.{number}", tenant=tenant, dedup=dedup, queue=queue, not_before=due)
            for number in numbers
        ]
        assert list(self.do("post", posts)) == self.model.post(posts, self.now)

    @rule(number=NUMBERS, tenant=TENANT, state=WRITTEN)
    def log(self, number: int, tenant: str, state: LogState) -> None:
        entries = [self._entry(f"{tenant}.{number}", state)] * 2
        self.do("log", entries)
        self.model.log(entries)

    @rule(tenant=st.sampled_from(["acme", "acme", "other"]), numbers=st.lists(NUMBERS, max_size=4))
    def cancel_posts(self, tenant: str, numbers: list[int]) -> None:
        ids = [f"acme.{number}" for number in numbers]
        assert list(self.do("cancel_posts", tenant, ids)) == self.model.cancel(tenant, ids, self.now)

    @rule(tenant=TENANT)
    def cancel_runs(self, tenant: str) -> None:
        assert self.do("cancel_runs", label=tenant) == self.model.cancel_messages(tenant, self.now)

    @rule(name=QUEUES, parallelism=st.sampled_from([None, 1, 2, 3]), paused=st.sampled_from([None, False, False, True]))
    def put_queue(self, name: str, parallelism: int | None, paused: bool | None) -> None:
        found = self.do("put_queue", "acme", name, parallelism=parallelism, paused=paused)
        assert found == self.model.put_queue("acme", name, parallelism, paused, self.now)

    @rule(tenant=TENANT, name=QUEUES)
    def drop_queue(self, tenant: str, name: str) -> None:
        assert self.do("drop_queue", tenant, name) == self.model.drop_queue(tenant, name, self.now)

    @rule(name=st.sampled_from(["a", "b"]), expected=st.sampled_from([None, 0, 1, 2]), drops=st.booleans())
    def put_document(self, name: str, expected: int | None, drops: bool) -> None:
        found = self.do("put_document", "group", name, str(self.now), expected=expected)
        assert found == self.model.put_document(name, str(self.now), expected, self.now)
        if drops:
            assert self.do("drop_document", "group", name) == (self.model.documents.pop(name, None) is not None)


def _by_post(entries: Any) -> dict[str, list[LogEntry]]:
    found: dict[str, list[LogEntry]] = {}
    for entry in entries:
        found.setdefault(entry.message, []).append(entry)
    return found


SETTINGS = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    # Not shrunk: that takes minutes, and a test that takes as long is ended. `reproduce_failure` is printed.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


class TestSqliteAgainstTheModel(WireMachine.TestCase):
    """The SQLite store in memory."""

    settings = SETTINGS
