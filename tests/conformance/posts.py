"""Posts, their deduplication and their cancellation."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import LOSS_LIMIT
from batchflow.core.posts import DEDUP_WINDOW_MS, LogEntry, Posted
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Log, SendPosts
from tests.conformance.scene import LEASE_MS, names, ran
from tests.conformance.wire import TENANT, WireCases, WireScene, new_post


class PostCases(WireCases):
    """`post` and `cancel_posts`."""

    # Publishing

    async def test_post_publishes_each_with_its_created_entry(self, wire: WireScene) -> None:
        """The answers, the entries and the claims are in their order."""
        assert await wire.post("a", "b") == [Posted("a"), Posted("b")]
        entries = [entry for _, entry in reversed(await wire.wire.log_entries(TENANT))]
        assert entries == [LogEntry(id, TENANT, "CREATED", wire.now, f'{{"post":"{id}"}}') for id in ("a", "b")]
        assert names(await wire.claim()) == ["a", "b"]

    async def test_post_publishes_the_message_as_it_is(self, wire: WireScene) -> None:
        """With its body, headers, retries and limits, when its time has come."""
        flow = FlowControl(key="one", parallelism=1)
        retry = RetryPolicy(retries=5, delay="1000 * retried")
        about = {"flow": flow, "retry": retry, "headers": {"A": "ü"}, "body": '{"a":"ü"}'}
        assert await wire.posted("a", "b", **about, not_before=wire.now + 1_000) == []
        wire.clock.advance("1s")
        claim = await wire.claim_one("a")
        assert (claim.body, claim.headers, claim.retry) == ('{"a":"ü"}', {"A": "ü"}, retry)

    async def test_post_publishes_hundreds_at_once(self, wire: WireScene) -> None:
        """With and without a deduplication key, and some of them twice."""
        many = [new_post(f"m{number:03d}", dedup=f"k{number % 400}" if number % 2 else None) for number in range(500)]
        answers = await wire.wire.post(many)
        assert [it.id for it in answers if it.deduplicated] == [f"m{number:03d}" for number in range(1, 100, 2)]
        assert len(await wire.claim(1_000)) == 450
        assert len(await wire.wire.open_posts(TENANT, limit=1_000)) == 450

    async def test_post_of_nothing_does_nothing(self, wire: WireScene) -> None:
        """An empty list has an empty answer."""
        assert list(await wire.wire.post([])) == []

    async def test_post_of_a_known_id_changes_nothing(self, wire: WireScene) -> None:
        """Whether it is open or has ended, its id is the answer; it is not a deduplicated one."""
        (claim,) = await wire.posted("a", dedup="k")
        assert await wire.post("a", "a", dedup="k") == [Posted("a")] * 2
        assert await wire.claim() == []
        await wire.deliver(claim)
        assert await wire.post("a", dedup="other") == [Posted("a")]
        assert await wire.claim() == []
        assert await wire.history("a") == ["CREATED", "DELIVERED"]

    async def test_post_publishes_an_id_once_in_one_call(self, wire: WireScene) -> None:
        """The first one of it."""
        answers = await wire.wire.post([new_post("a", body="1"), new_post("a", body="2")])
        assert list(answers) == [Posted("a")] * 2
        assert (await wire.claim_one("a")).body == "1"

    # Deduplication

    async def test_post_of_a_known_key_is_not_published(self, wire: WireScene) -> None:
        """It gets the id of the earlier post, whoever posted that, and leaves nothing in the log."""
        assert await wire.post("a", dedup="k") == [Posted("a")]
        assert await wire.post("b", dedup="k", tenant="other") == [Posted("a", deduplicated=True)]
        await wire.claim_one("a")
        assert await wire.history("b", tenant="other") == []

    async def test_post_of_a_key_twice_in_one_call_is_published_once(self, wire: WireScene) -> None:
        """The first one of it."""
        assert await wire.post("a", "b", "c", dedup="k") == [Posted("a"), Posted("a", True), Posted("a", True)]
        await wire.claim_one("a")

    async def test_post_of_a_key_at_the_same_moment_is_published_once(self, wire: WireScene) -> None:
        """Whoever comes first."""
        answers = await asyncio.gather(*(wire.post(f"m{number}", dedup="k") for number in range(10)))
        (claim,) = await wire.claim()
        assert {answer.id for (answer,) in answers} == {claim.id}
        assert [answer.deduplicated for (answer,) in answers].count(False) == 1

    async def test_post_keeps_a_key_for_its_window(self, wire: WireScene) -> None:
        """From the post that was published, even when that has ended; then it is as good as new."""
        (claim,) = await wire.posted("a", dedup="k")
        await wire.deliver(claim)
        wire.clock.advance(f"{DEDUP_WINDOW_MS - 1}ms")
        assert await wire.post("b", dedup="k") == [Posted("a", True)]
        wire.clock.advance("1ms")
        assert await wire.post("c", dedup="k") == [Posted("c")]
        assert await wire.post("d", dedup="k") == [Posted("c", True)]
        await wire.claim_one("c")

    # Cancelling

    async def test_cancel_posts_ends_those_that_wait(self, wire: WireScene) -> None:
        """At once, with both entries; nothing of them is claimed."""
        await wire.post("a", "b", "c", not_before=wire.now + 1_000)
        assert await wire.wire.cancel_posts(TENANT, ["c", "a", "c"]) == ["c", "a"]
        for id in ("a", "c"):
            assert await wire.history(id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
        assert await wire.open_ids() == ["b"]
        wire.clock.advance("1s")
        await wire.claim_one("b")

    async def test_cancel_posts_ends_those_that_wait_after_an_attempt(self, wire: WireScene) -> None:
        """A retry that is to come does not come."""
        (claim,) = await wire.posted("a")
        await wire.try_again(claim)
        assert await wire.wire.cancel_posts(TENANT, ["a"]) == ["a"]
        assert await wire.claim() == []
        assert await wire.history("a") == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]

    async def test_cancel_posts_passes_over_what_it_cannot_cancel(self, wire: WireScene) -> None:
        """What is unknown, of another tenant, ended or dead."""
        dead, ended = await wire.posted("dead", "ended")
        await wire.deliver(ended)
        await wire.dead(dead)
        await wire.post("theirs", tenant="other")
        assert await wire.wire.cancel_posts(TENANT, ["unknown", "theirs", "ended", "dead"]) == []
        assert await wire.wire.cancel_posts(TENANT, []) == []
        assert await wire.history("dead") == ["CREATED"]
        assert await wire.open_ids(tenant="other") == ["theirs"]

    @pytest.mark.parametrize("ends", ["retry", "dead", "cancelled", "lost", "deregistered"])
    async def test_cancel_posts_of_a_claimed_one_ends_it_with_its_claim(self, wire: WireScene, ends: str) -> None:
        """In whatever way that ends but by a delivery; its effects are dropped, and it is no dead letter."""
        (claim,) = await wire.posted("a")
        assert await wire.wire.cancel_posts(TENANT, ["a"]) == ["a"]
        assert await wire.history("a") == ["CREATED", "CANCEL_REQUESTED"]
        assert await wire.open_ids() == ["a"]
        assert await wire.store.record("a", claim.fence, ran(1, "one")) == "cancelled"
        effects = (Log((wire.entry("a", "FAILED"),)), SendPosts((new_post("b"),)))
        match ends:
            case "retry":
                await wire.try_again(claim, *effects)
            case "dead":
                await wire.store.settle(settlement.dead(claim, "Boom: no", effects=effects))
            case "cancelled":
                await wire.store.settle(settlement.cancelled(claim))
            case "lost":
                await wire.lose()
            case _:
                await wire.store.deregister("w1")
                await wire.store.register("w1", LEASE_MS)
        assert await wire.history("a") == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
        assert await wire.open_ids() == []
        assert await wire.store.dead_letter("a") is None
        assert await wire.claim() == []

    async def test_cancel_posts_comes_too_late_for_a_delivery(self, wire: WireScene) -> None:
        """One that its worker has delivered meanwhile is delivered."""
        (claim,) = await wire.posted("a")
        await wire.wire.cancel_posts(TENANT, ["a"])
        assert not (await wire.deliver(claim)).stale
        assert await wire.history("a") == ["CREATED", "CANCEL_REQUESTED", "DELIVERED"]

    async def test_cancel_posts_asks_once_for_each(self, wire: WireScene) -> None:
        """A second call finds it, since it has not ended, and writes nothing."""
        await wire.posted("a")
        for _ in range(2):
            assert await wire.wire.cancel_posts(TENANT, ["a"]) == ["a"]
        assert await wire.history("a") == ["CREATED", "CANCEL_REQUESTED"]

    @pytest.mark.parametrize("claimed", [False, True])
    async def test_cancel_runs_of_posts_is_in_their_log(self, wire: WireScene, claimed: bool) -> None:
        """An operator's cancellation ends them as one of the tenant does."""
        await wire.post("a", "b")
        claims = await wire.claim() if claimed else []
        assert await wire.store.cancel_runs(label=TENANT) == 2
        for claim in claims:
            await wire.store.settle(settlement.cancelled(claim))
        for id in ("a", "b"):
            assert await wire.history(id) == ["CREATED", "CANCELED"]
        assert await wire.open_ids() == []

    async def test_expire_leaves_a_post_that_died_with_its_workers_open(self, wire: WireScene) -> None:
        """Its failure message is what ends it."""
        await wire.post("a", on_failure="other")
        for _ in range(LOSS_LIMIT):
            await wire.claim_one("a")
            await wire.lose()
        assert await wire.open_ids() == ["a"]
        failure = await wire.claim_one()
        await wire.done(failure, Log((wire.entry("a", "FAILED"),)))
        assert await wire.open_ids() == []
