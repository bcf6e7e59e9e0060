"""Workflow runs of QStash: posts that wait for events, and the events that come to them."""

import pytest

from batchflow.core import settlement
from batchflow.core.posts import Posted
from batchflow.core.settlement import Log
from batchflow.core.store import KEPT_EVENTS
from batchflow.core.wire_runs import MAX_ENTRIES_SIZE, WAIT_TIMEOUT, EventWait, JoinRun
from tests.conformance.run_scene import BEGAN, HEAD, RunScene, RunScenes, adds, awaits, begins
from tests.conformance.wire import TENANT, new_post

TIMEOUT = HEAD + WAIT_TIMEOUT


class WireWaitCases(RunScenes):
    """`AwaitEvent`, `notify_event`, `event_waits`, and `claim_entry` of a post that waits."""

    async def _waits(self, runs: RunScene, id: str = "w", run: str = "r", event: str = "paid") -> None:
        """A post of a run waits for an event, for a second."""
        due = runs.now + 1_000
        assert await runs.link(id, awaits(event, run, created_at=BEGAN), not_before=due) == Posted(id)

    async def test_post_waits_for_an_event_until_it_is_due(self, runs: RunScene) -> None:
        """It is one of the posts of its run and no entry; then it is one that says so, however often it is claimed."""
        await runs.begun("a")
        due = runs.now + 1_000
        assert await runs.link("w", awaits(about='{"step":"x"}'), not_before=due) == Posted("w")
        assert list(await runs.wire.event_waits(TENANT, "paid")) == [EventWait("r", "w", due, '{"step":"x"}', BEGAN)]
        assert (await runs.members(), await runs.bodies()) == ([("s1", 1), ("w", 0)], ["a"])
        assert await runs.claim() == []
        runs.clock.advance("1s")
        await runs.claim_one("w")
        for _ in range(2):
            assert await runs.delivered("w") == ["a", TIMEOUT]
        assert await runs.members() == [("s1", 1), ("w", 2)]
        assert (await runs.found()).size == 1 + len(TIMEOUT)
        assert await runs.notify(',"x":1}') == await runs.waiting() == []
        assert await runs.bodies() == ["a", TIMEOUT]

    async def test_notify_event_makes_a_post_that_waits_an_entry_that_is_due(self, runs: RunScene) -> None:
        """At once, with what the sender gave; a later event is for the next one."""
        await runs.begun("a")
        await self._waits(runs)
        await runs.link("s2", adds("b"))
        await runs.claim_one("s2")
        found = await runs.wire.notify_event(TENANT, "paid", ',"x":1}')
        assert list(found) == [EventWait("r", "w", runs.now + 1_000, "{}", BEGAN)]
        await runs.claim_one("w")
        assert await runs.delivered("w") == ["a", "b", HEAD + ',"x":1}']
        assert (await runs.found()).size == 2 + len(HEAD + ',"x":1}')
        assert await runs.waiting() == await runs.notify(',"x":2}') == []
        assert len(await runs.bodies()) == 3

    async def test_notify_event_reaches_all_that_wait_for_it(self, runs: RunScene) -> None:
        """Of all runs of the tenant and of all branches of one, those that have waited longest first."""
        for run in ("r", "q"):
            await runs.begun(run=run, id=f"{run}1")
        for id, run, event in [("w4", "q", "paid"), ("w1", "r", "paid"), ("w3", "r", "paid"), ("w2", "q", "sent")]:
            await self._waits(runs, id, run, event)
        assert await runs.waiting() == ["w4", "w1", "w3"]
        assert await runs.notify("}", tenant="other") == []
        assert await runs.notify("}") == ["w4", "w1", "w3"]
        assert {claim.id for claim in await runs.claim()} == {"w4", "w1", "w3"}
        assert await runs.delivered("w3") == ["first", HEAD + "}", HEAD + "}"]
        assert await runs.delivered("w4", run="q") == ["first", HEAD + "}"]
        assert await runs.waiting("sent") == ["w2"]
        # Nobody waits: it is kept for no run.
        assert await runs.notify("}") == []
        await self._waits(runs, "w5")
        assert await runs.waiting() == ["w5"]

    async def test_notify_event_for_one_run_reaches_its_longest_wait(self, runs: RunScene) -> None:
        """One event, one wait."""
        for run in ("r", "q"):
            await runs.begun(run=run, id=f"{run}1")
        for id, run in [("w4", "q"), ("w3", "r"), ("w1", "r")]:
            await self._waits(runs, id, run)
        assert await runs.notify("}", "r") == ["w3"]
        assert await runs.notify("}", "r") == ["w1"]
        assert await runs.waiting() == ["w4"]

    async def test_notify_event_is_kept_for_a_run_that_does_not_wait_yet(self, runs: RunScene) -> None:
        """Its next waits for this event get what was kept, one each, the oldest first; they are due at once."""
        await runs.begun("a")
        for number in range(3):
            assert await runs.notify(f',"n":{number}}}', "r") == []
        await self._waits(runs, "other", event="sent")
        posts = [new_post(id, link=awaits(), not_before=runs.now + 1_000) for id in ("w1", "w2")]
        assert await runs.wire.post(posts) == [Posted("w1"), Posted("w2")]
        assert [claim.id for claim in await runs.claim()] == ["w1", "w2"]
        assert await runs.members() == [("s1", 1), ("other", 0), ("w1", 2), ("w2", 3)]
        await self._waits(runs, "w3")
        await runs.claim_one("w3")
        assert await runs.bodies() == ["a", *(f'{HEAD},"n":{number}}}' for number in range(3))]
        await self._waits(runs, "w4")
        assert await runs.waiting() == ["w4"]

    async def test_notify_event_keeps_nothing_for_a_run_that_does_not_go_on(self, runs: RunScene) -> None:
        """Of one that is unknown, another tenant's or has ended, also when another one with its id begins."""
        assert await runs.notify("}", "r") == []
        await runs.begun("a")
        assert await runs.notify("}", "r", tenant="other") == []
        await runs.notify("}", "r")
        await runs.end()
        assert await runs.notify("}", "r") == []
        await runs.link("n1", begins(created_at=BEGAN + 1))
        await runs.link("w", awaits(), not_before=runs.now + 1_000)
        assert await runs.waiting() == ["w"]

    async def test_notify_event_keeps_so_many_events_of_a_run(self, runs: RunScene) -> None:
        """Those above it are dropped."""
        await runs.begun("a")
        for number in range(KEPT_EVENTS + 1):
            await runs.notify(f"{number}", "r", event="last" if number == KEPT_EVENTS else "paid")
        await self._waits(runs, "w1")
        await self._waits(runs, "w2", event="last")
        assert await runs.bodies() == ["a", HEAD + "0"]
        assert await runs.waiting("last") == ["w2"]

    async def test_notify_event_keeps_so_many_characters_of_a_run(self, runs: RunScene) -> None:
        """Those above it are dropped; a wait that gets one makes room for another."""
        await runs.begun("a")
        quarter = "x" * (MAX_ENTRIES_SIZE // 4)
        for _ in range(4):
            await runs.notify(quarter, "r")
        await runs.notify("}", "r", event="lost")
        await self._waits(runs, "w1")
        await runs.notify(f"{quarter[1:]}y", "r", event="kept")
        await runs.notify("}", "r", event="lost")
        await self._waits(runs, "w2", event="kept")
        await self._waits(runs, "w3", event="lost")
        assert [text[-1] for text in await runs.bodies()] == ["a", "x", "y"]
        assert await runs.waiting("lost") == ["w3"]

    async def test_notify_event_leaves_a_run_that_is_full_waiting(self, runs: RunScene) -> None:
        """The others get it; its time ends as that of any other, and it is told so for all that.

        A run that is fuller than full takes what adds nothing to it.
        """
        await runs.begun("x" * (MAX_ENTRIES_SIZE - len(HEAD) - 1))
        await runs.begun("a", run="q", id="q1")
        await self._waits(runs, "w")
        await self._waits(runs, "w2", "q")
        assert await runs.notify(",}") == ["w2"]
        assert await runs.notify(",}", "r") == []
        await runs.claim_one("w2")
        assert await runs.waiting() == ["w"]
        runs.clock.advance("1s")
        await runs.claim_one("w")
        delivered = await runs.delivered("w")
        assert delivered is not None
        assert delivered[1] == TIMEOUT
        assert await runs.link("s2", adds("")) == Posted("s2", refused="full")
        assert await runs.link("call", JoinRun("r")) == Posted("call")
        await self._waits(runs, "w3")

    async def test_post_that_would_get_a_kept_event_is_refused_by_a_run_that_is_full(self, runs: RunScene) -> None:
        """The event stays for one that has room."""
        await runs.begun("x" * (MAX_ENTRIES_SIZE - len(HEAD) - 1))
        await runs.notify(",}", "r")
        await runs.notify("}", "r")
        assert await runs.link("w", awaits()) == Posted("w", refused="full")
        assert await runs.link("w", awaits("sent"), not_before=runs.now + 1) == Posted("w")
        assert len(await runs.bodies()) == 1

    async def test_claim_entry_finds_the_event_that_came_before_it(self, runs: RunScene) -> None:
        """After the wait was due and claimed, while its entry was not."""
        await runs.begun("a")
        await self._waits(runs)
        runs.clock.advance("1s")
        claim = await runs.claim_one("w")
        assert await runs.notify("}") == ["w"]
        assert await runs.delivered("w") == ["a", HEAD + "}"]
        await runs.deliver(claim)
        assert await runs.claim() == []

    async def test_event_waits_leaves_out_a_post_whose_workers_are_lost(self, runs: RunScene) -> None:
        """It has ended without becoming an entry."""
        await runs.begun("a")
        await self._waits(runs)
        runs.clock.advance("1s")
        claim = await runs.claim_one("w")
        failed = Log((runs.entry(claim.id, "FAILED"),))
        await runs.store.settle(settlement.dead(claim, "lost", effects=(failed,)))
        assert await runs.waiting() == await runs.notify("}") == []
        assert await runs.bodies() == ["a"]

    @pytest.mark.parametrize("by", ["the tenant", "an operator", "the tenant, once claimed"])
    async def test_event_waits_leaves_out_a_post_that_is_cancelled(self, runs: RunScene, by: str) -> None:
        """An event does not make it an entry."""
        await runs.begun("a")
        await self._waits(runs)
        match by:
            case "the tenant":
                await runs.wire.cancel_posts(TENANT, ["w"])
            case "an operator":
                await runs.store.cancel_runs(ids=["w"])
            case _:
                runs.clock.advance("1s")
                claim = await runs.claim_one("w")
                await runs.wire.cancel_posts(TENANT, ["w"])
                await runs.try_again(claim)
        assert await runs.waiting() == await runs.notify("}") == []
        assert await runs.bodies() == ["a"]
