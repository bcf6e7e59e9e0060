"""The operations of workflow runs of QStash, beside those of posts."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from batchflow.core import settlement
from batchflow.core.call import Body
from batchflow.core.message import Claim
from batchflow.core.posts import Post
from batchflow.core.settlement import Effect, EndRun, LeaveQueue, Log, SendPosts
from batchflow.core.wire_runs import AddEntry, AdoptRun, AwaitEvent, BeginRun, JoinRun, RunLink, WireRunState
from tests.conformance.wire import new_post
from tests.stores.test_wire_state_machine import DEDUPS, DELAYS, QUEUES, SETTINGS, TENANTS, PostMachine

TENANT = st.sampled_from(["acme", "acme", "other"])
RUN_IDS = ("r", "q")
RUNS = st.sampled_from(RUN_IDS)
EVENTS = ("paid", "sent")
EVENT = st.sampled_from(EVENTS)
KIND = st.sampled_from(["begin", "begin", "add", "add", "late", "join", "await", "await", "await", "adopt"])
NUMBERS = st.integers(0, 7)
BEGAN = st.sampled_from([None, None, None, "then", "another time"])
LINKS = st.lists(st.tuples(KIND, NUMBERS, EVENT), min_size=1, max_size=3)
STATE: st.SearchStrategy[WireRunState] = st.sampled_from(["RUN_SUCCESS", "RUN_FAILED", "RUN_CANCELED"])


class WireRunMachine(PostMachine):
    """Posts with and without links, in any order with the ends of their runs."""

    notified = 0

    @initialize()
    def begin(self) -> None:
        for tenant in TENANTS:
            for run in RUN_IDS:
                self.post_linked(tenant, run, [("begin", 0, "paid"), ("await", 1, "paid")], None, None, None, 0)
                for _ in range(2):
                    self.notify_event(tenant, "sent", run)

    @rule(
        tenant=TENANT,
        run=RUNS,
        links=LINKS,
        began=BEGAN,
        dedup=DEDUPS,
        queue=st.one_of(st.none(), st.none(), QUEUES),
        delay=DELAYS,
    )
    def post_linked(
        self,
        tenant: str,
        run: str,
        links: list[tuple[str, int, str]],
        began: str | None,
        dedup: str | None,
        queue: str | None,
        delay: int,
    ) -> None:
        due = self.now + delay if delay else 0
        timeout = self.now + (delay or 3_600_000)
        # Of those that are not published, few ids, so that they come again.
        posts = [
            new_post(
                f"{tenant}.{run}{f'-{number % 2}' if kind == 'late' else number}",
                tenant=tenant,
                dedup=dedup,
                queue=None if kind == "await" else queue,
                link=self._link(tenant, run, kind, event, began),
                not_before=timeout if kind == "await" else due,
            )
            for kind, number, event in links
        ]
        assert list(self.do("post", posts)) == self.model.post(posts, self.now)

    @rule(tenant=TENANT, run=RUNS, number=NUMBERS)
    def claim_entry(self, tenant: str, run: str, number: int) -> None:
        """What a post delivers, whether it is claimed or not."""
        message = f"{tenant}.{run}{number}"
        found = self.do("claim_entry", tenant, run, message)
        expected = self.model.claim_entry(tenant, run, message, self.now)
        assert (None if found is None else list(found)) == expected

    @rule(tenant=TENANT, event=EVENT, run=st.one_of(st.none(), RUNS, RUNS))
    def notify_event(self, tenant: str, event: str, run: str | None) -> None:
        self.notified += 1
        tail = f',"n":{self.notified}}}'
        found = self.do("notify_event", tenant, event, tail, run)
        assert list(found) == self.model.notify(tenant, event, tail, run, self.now)
        self.claim("w1")

    @rule(tenant=TENANT, run=RUNS, numbers=st.lists(NUMBERS, max_size=3))
    def cancel_posts(self, tenant: str, run: str, numbers: list[int]) -> None:
        ids = [f"{tenant}.{run}{number}" for number in numbers]
        assert list(self.do("cancel_posts", tenant, ids)) == self.model.cancel(tenant, ids, self.now)

    @rule(tenant=TENANT, run=RUNS, state=STATE, began=BEGAN)
    def end_run(self, tenant: str, run: str, state: WireRunState, began: str | None) -> None:
        end = self._end(tenant, run, state, began)
        assert self.do("end_run", end) == self.model.end_run(end, self.now)

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 99))
    def fail(self, which: int) -> None:
        """A post of a run fails for good, and its run with it."""
        claim = self._claim_of_run(which)
        if claim is None:
            return
        tenant, _, rest = claim.id.partition(".")
        logged = [self._entry(claim.id, "FAILED")]
        end = self._end(tenant, rest[0], "RUN_FAILED", None)
        effects = (Log(tuple(logged)), LeaveQueue(claim.id), end)
        held = self.model.holds(claim.id, claim.fence)
        assert self.do("settle", settlement.dead(claim, "Boom: no", effects=effects)).stale is not held
        if not held:
            return
        self._settle_in_model(claim.id, "failed", 0, logged, [], None)
        if self.model.entries[-1].state != "CANCELED":
            self.model.end_run(end, self.now)

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 99), run=RUNS, kinds=st.lists(KIND, min_size=1, max_size=2))
    def answer(self, which: int, run: str, kinds: list[str]) -> None:
        """A post is delivered, and posts of a run follow from it."""
        claim = self.claims[which % len(self.claims)]
        tenant, _, _ = claim.id.partition(".")
        logged = [self._entry(claim.id, "DELIVERED")]
        sent = [self._sent(tenant, self._link(tenant, run, kind, "paid", None)) for kind in kinds]
        effects: tuple[Effect, ...] = (Log(tuple(logged)), SendPosts(tuple(sent)), LeaveQueue(claim.id))
        held = self.model.holds(claim.id, claim.fence)
        assert self.do("settle", settlement.done(claim, "null", effects)).stale is not held
        if held:
            self._settle_in_model(claim.id, "delivered", 0, logged, sent, None)

    def _link(self, tenant: str, run: str, kind: str, event: str, began: str | None) -> RunLink:
        body = Body(text=f'"{self.now}"')
        created_at = self._began(tenant, run, began)
        match kind:
            case "begin":
                return BeginRun(run, "https://app.example", (body, Body.of(b"\xff")), self.now, config=f"{self.now}")
            case "add" | "late":
                return AddEntry(run, body, created_at, late=kind == "late")
            case "join":
                return JoinRun(run, created_at)
            case "adopt":
                return AdoptRun(run, f'"{self.now}"', created_at)
            case _:
                return AwaitEvent(run, event, '{"id":1', f"{self.now}", created_at)

    def _began(self, tenant: str, run: str, began: str | None) -> int | None:
        known = self.model.runs.get((tenant, run))
        if began is None or known is None:
            return None
        return known.run.created_at + (began == "another time")

    def _end(self, tenant: str, run: str, state: WireRunState, began: str | None) -> EndRun:
        """The end of a run, which the other run of its tenant is told of."""
        (other,) = set(RUN_IDS) - {run}
        told = AddEntry(other, Body(text="ended"), late=True)
        posts = (self._sent(tenant, None), self._sent(tenant, told), self._sent(tenant, JoinRun(run)))
        return EndRun(tenant, run, state, f"{self.now}", posts, self._began(tenant, run, began))

    def _sent(self, tenant: str, link: RunLink | None) -> Post:
        self.callbacks += 1
        return new_post(f"{tenant}.callback{self.callbacks}", tenant=tenant, link=link)

    def _claim_of_run(self, which: int) -> Claim | None:
        claims = [it for it in self.claims if it.id.partition(".")[2][0] in RUN_IDS]
        return claims[which % len(claims)] if claims else None

    @invariant()
    def runs_are_the_same(self) -> None:
        self.runner.run(self._compare_runs())

    async def _compare_runs(self) -> None:
        known = self.model.runs
        places = [(tenant, run) for tenant in TENANTS for run in RUN_IDS]
        waits = [(tenant, event) for tenant in TENANTS for event in EVENTS]
        # All in one group, which is faster.
        found = await asyncio.gather(
            *(self.store.wire_run(*place) for place in places),
            *(self.store.run_entries(*place) for place in places),
            *(self.store.run_members(*place) for place in places),
            *(self.store.event_waits(*wait) for wait in waits),
            *(self.store.wire_runs(tenant) for tenant in TENANTS),
        )
        parts = [found[start : start + len(places)] for start in range(0, 4 * len(places), len(places))]
        for place, run, entries, members in zip(places, *parts[:3], strict=True):
            model = known.get(place)
            assert run == (model and model.run)
            assert list(entries) == (model.entries if model else [])
            assert list(members) == (list(model.members.values()) if model else [])
        for (tenant, event), there in zip(waits, parts[3], strict=True):
            expected = [it.seen() for it in self.model.waits if (it.of.run.tenant, it.event) == (tenant, event)]
            assert list(there) == expected
        for tenant, listed in zip(TENANTS, found[4 * len(places) :], strict=True):
            runs = [it.run for (of, _), it in known.items() if of == tenant]
            assert list(listed) == sorted(runs, key=lambda it: (it.created_at, it.id), reverse=True)


class TestRunsOnSqliteAgainstTheModel(WireRunMachine.TestCase):
    """The SQLite store in memory."""

    settings = settings(SETTINGS, max_examples=25, stateful_step_count=45)
