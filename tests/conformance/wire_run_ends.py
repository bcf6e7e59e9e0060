"""Workflow runs of QStash: what their end cancels, drops and publishes, as a verb and as an effect."""

import asyncio
from typing import Any

import pytest

from batchflow.core import settlement
from batchflow.core.message import Claim
from batchflow.core.posts import Posted
from batchflow.core.settlement import Log, SendPosts, SettleResult
from batchflow.core.wire_runs import JoinRun
from tests.conformance.run_scene import BEGAN, RunScene, RunScenes, adds, awaits, begins, ends
from tests.conformance.wire import TENANT, new_post


async def fail(runs: RunScene, claim: Claim, **about: Any) -> SettleResult:
    """Settle the claim of a post as dead: it ends its run."""
    failed = Log((runs.entry(claim.id, "FAILED"),))
    return await runs.store.settle(settlement.dead(claim, "Boom: no", effects=(failed, ends(**about))))


class WireRunEndCases(RunScenes):
    """`end_run` and the effects `EndRun` and `SendPosts`."""

    async def test_end_run_ends_a_run_once(self, runs: RunScene) -> None:
        """With its state, its result and its time; entries and posts stay."""
        await runs.begun("a")
        runs.clock.advance("5s")
        assert await runs.end(state="RUN_SUCCESS", result='{"ok":1}', created_at=BEGAN)
        assert not await runs.end(state="RUN_CANCELED")
        found = await runs.found()
        assert (found.state, found.result, found.ended_at) == ("RUN_SUCCESS", '{"ok":1}', runs.now)
        assert (await runs.bodies(), await runs.members()) == (["a"], [("s1", 1)])

    @pytest.mark.parametrize("about", [{"run": "unknown"}, {"tenant": "other"}, {"created_at": BEGAN - 1}])
    async def test_end_run_of_another_run_does_nothing(self, runs: RunScene, about: dict[str, Any]) -> None:
        """Its posts are not published either."""
        await runs.begun("a")
        assert not await runs.end(**about, posts=(new_post("p"),))
        assert (await runs.found()).state == "RUN_STARTED"
        assert await runs.claim() == []

    async def test_end_run_cancels_the_posts_that_wait(self, runs: RunScene) -> None:
        """Due or not, in a queue or after an attempt; they leave their queues, and nothing of the run is delivered."""
        claim = await runs.begun("a")
        await runs.try_again(claim)
        await runs.link("later", adds("b"), not_before=runs.now + 1_000)
        await runs.link("call", JoinRun("r"))
        await runs.link("w", awaits(), not_before=runs.now + 1_000)
        for id in ("placed", "queued"):
            await runs.link(id, JoinRun("r"), queue="q")
        await runs.post("plain", queue="q")
        assert await runs.end()
        for id in ("s1", "later", "call", "w", "placed", "queued"):
            assert (await runs.history(id))[-1] == "CANCELED", id
        assert await runs.open_ids() == ["plain"]
        assert [queue.lag for queue in await runs.wire.queues(TENANT)] == [1]
        runs.clock.advance("1s")
        await runs.claim_one("plain")
        assert await runs.waiting() == await runs.notify("}") == []

    async def test_end_run_leaves_the_posts_of_others(self, runs: RunScene) -> None:
        """Of other runs and without a run."""
        await runs.begun("a")
        await runs.link("q1", begins(run="q"))
        await runs.post("plain")
        assert await runs.end()
        assert {claim.id for claim in await runs.claim()} == {"q1", "plain"}

    @pytest.mark.parametrize("settles", ["delivered", "retry", "dead", "lost"])
    async def test_end_run_cancels_a_post_that_is_under_way_unless_it_is_delivered(
        self, runs: RunScene, settles: str
    ) -> None:
        """When its worker settles or loses it; it is neither tried again nor a dead letter."""
        claim = await runs.begun("a")
        assert await runs.end()
        assert await runs.history("s1") == ["CREATED"]
        match settles:
            case "delivered":
                await runs.deliver(claim)
            case "retry":
                await runs.try_again(claim)
            case "dead":
                await fail(runs, claim, posts=(new_post("failure"),))
            case _:
                await runs.lose()
        assert (await runs.history("s1"))[-1] == ("DELIVERED" if settles == "delivered" else "CANCELED")
        assert await runs.store.dead_letter("s1") is None
        assert await runs.open_ids() == await runs.claim() == []
        assert (await runs.found()).state == "RUN_SUCCESS"

    async def test_end_run_publishes_its_posts_one_by_one(self, runs: RunScene) -> None:
        """One that its run refuses is left out: that of the run that ends, and of others that do not exist."""
        await runs.begun("a")
        await runs.begun("p", run="parent", id="p1")
        posts = (
            new_post("own", link=JoinRun("r")),
            new_post("told", link=adds("child ended", "parent", late=True)),
            new_post("lost", link=adds("x", "unknown", late=True)),
            new_post("plain"),
        )
        assert await runs.end(posts=posts)
        assert {claim.id for claim in await runs.claim()} == {"told", "plain"}
        assert await runs.bodies("parent") == ["p", "child ended"]
        assert await runs.history("own") == await runs.history("lost") == []
        assert not await runs.end(posts=(new_post("again"),))
        assert await runs.claim() == []

    async def test_end_run_tells_a_run_that_has_ended(self, runs: RunScene) -> None:
        """A late entry is recorded there, and nothing is published."""
        await runs.begun("p", run="parent", id="p1")
        await runs.end("parent")
        await runs.begun("a")
        assert await runs.end(posts=(new_post("told", link=adds("child ended", "parent", late=True)),))
        assert await runs.bodies("parent") == ["p", "child ended"]
        assert await runs.claim() == []

    # Effects

    async def test_settle_as_dead_ends_the_run_in_the_same_transaction(self, runs: RunScene) -> None:
        """The post is a dead letter, the others are cancelled, and the failure callback is published."""
        claim = await runs.begun("a")
        await runs.link("s2", adds("b"), not_before=runs.now + 1_000)
        await fail(runs, claim, result="boom", posts=(new_post("failure"),))
        found = await runs.found()
        assert (found.state, found.result, found.ended_at) == ("RUN_FAILED", "boom", runs.now)
        assert (await runs.letter("s1")).id == "s1"
        assert await runs.history("s1") == ["CREATED", "FAILED"]
        assert await runs.history("s2") == ["CREATED", "CANCELED"]
        await runs.claim_one("failure")
        assert await runs.open_ids() == ["failure"]

    @pytest.mark.parametrize("at_once", [False, True])
    async def test_settle_as_dead_of_two_branches_publishes_one_failure(self, runs: RunScene, at_once: bool) -> None:
        """The second one is cancelled, also in the same moment: one dead letter, one callback."""
        await runs.begun("a")
        await runs.link("s2", adds("b"))
        await runs.link("s3", adds("c"))
        claims = await runs.claim()
        failing = [fail(runs, claim, result=claim.id, posts=(new_post(f"f-{claim.id}"),)) for claim in claims]
        if at_once:
            await asyncio.gather(*failing)
        else:
            for one in failing:
                await one
        first, second = [claim.id for claim in claims]
        assert (await runs.found()).result == first
        await runs.claim_one(f"f-{first}")
        assert [letter.id for letter in await runs.store.dead_letters()] == [first]
        assert await runs.history(second) == ["CREATED", "CANCELED"]

    async def test_settle_cancels_a_branch_that_is_tried_again_as_the_run_ends(self, runs: RunScene) -> None:
        """Both in the same moment."""
        first = await runs.begun("a")
        await runs.link("s2", adds("b"))
        second = await runs.claim_one("s2")
        await asyncio.gather(fail(runs, first), runs.try_again(second))
        assert (await runs.history("s2"))[-1] == "CANCELED"
        assert await runs.open_ids() == await runs.claim() == []

    async def test_settle_of_what_is_not_held_ends_no_run(self, runs: RunScene) -> None:
        """A claim that was lost changes nothing."""
        claim = await runs.begun("a")
        await runs.lose()
        assert (await fail(runs, claim)).stale
        assert (await runs.found()).state == "RUN_STARTED"

    async def test_settle_leaves_out_the_posts_of_a_run_that_has_ended(self, runs: RunScene) -> None:
        """The callback of a call is not published, and others of the same settlement are."""
        await runs.begun("a")
        await runs.link("call", JoinRun("r"))
        claim = await runs.claim_one("call")
        await runs.end()
        sent = SendPosts(
            (new_post("back", link=JoinRun("r")), new_post("plain"), new_post("new", link=begins(run="n")))
        )
        await runs.deliver(claim, sent)
        assert {claim.id for claim in await runs.claim()} == {"plain", "new"}
        assert await runs.history("back") == []
        assert await runs.wire.post([new_post("back")]) == [Posted("back")]

    async def test_settle_adds_an_entry_to_a_live_run(self, runs: RunScene) -> None:
        """The answer of a call becomes the next entry."""
        await runs.begun("a")
        await runs.link("call", JoinRun("r"))
        sent = SendPosts((new_post("s2", link=adds("b")), new_post("s3", link=adds("c"))))
        await runs.deliver(await runs.claim_one("call"), sent)
        assert {claim.id for claim in await runs.claim()} == {"s2", "s3"}
        assert await runs.delivered("s3") == ["a", "b", "c"]
