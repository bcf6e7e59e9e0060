"""Queues, which keep the order of their posts."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import LOSS_LIMIT
from batchflow.core.posts import Posted, Queue
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import LeaveQueue, Log, SendPosts
from tests.conformance.scene import names
from tests.conformance.wire import TENANT, WireCases, WireScene, new_post


async def known(wire: WireScene, name: str = "q") -> Queue:
    """A queue that exists."""
    found = await wire.wire.queue(TENANT, name)
    assert found is not None
    return found


class QueueCases(WireCases):
    """`post` and `settle` with queues; `put_queue`, `queue`, `queues`, `drop_queue`; `cancel_posts` in queues."""

    # The order

    async def test_post_with_a_queue_waits_for_its_place(self, wire: WireScene) -> None:
        """One after the other, in the order in which they were posted and not in that of their ids."""
        (claim,) = await wire.posted("c", "a", "b", queue="q")
        for id in ("c", "a", "b"):
            assert claim.id == id
            assert await wire.claim() == []
            await wire.deliver(claim)
            claim = next(iter(await wire.claim()), claim)
        assert await wire.open_ids() == []

    async def test_post_with_a_queue_is_in_the_log_from_the_start(self, wire: WireScene) -> None:
        """Those that wait are open, known, and deduplicate others."""
        await wire.post("a", queue="q")
        await wire.post("b", queue="q", dedup="k")
        assert await wire.open_ids() == ["a", "b"]
        assert await wire.post("b", queue="q") == [Posted("b")]
        assert await wire.post("c", dedup="k") == [Posted("b", True)]
        assert (await known(wire)).lag == 2

    async def test_post_with_a_queue_makes_the_queue(self, wire: WireScene) -> None:
        """With a parallelism of 1; one that exists stays as it is."""
        await wire.post("a", queue="q")
        made = wire.now
        assert await wire.wire.queue(TENANT, "q") == Queue("q", 1, False, made, made, 1)
        wire.clock.advance("1s")
        await wire.post("b", "c", queue="q")
        assert await wire.wire.queue(TENANT, "q") == Queue("q", 1, False, made, made, 3)

    async def test_post_with_a_queue_fills_all_its_places(self, wire: WireScene) -> None:
        """As many as its parallelism are under way."""
        await wire.wire.put_queue(TENANT, "q", parallelism=2)
        first, second = await wire.posted("a", "b", "c", "d", queue="q")
        await wire.deliver(second)
        third = await wire.claim_one("c")
        await wire.deliver(first)
        await wire.deliver(third)
        await wire.claim_one("d")

    async def test_post_with_a_queue_publishes_the_message_as_it_is(self, wire: WireScene) -> None:
        """With everything that it had when it was posted."""
        flow = FlowControl(key="one", rate=1, period="1s")
        retry = RetryPolicy(retries=5, first="2s", delay="1000 * retried")
        await wire.post("a", queue="q")
        changes = {"headers": {"A": "ü"}, "body": '{"a":"ü"}', "retry": retry, "flow": flow, "on_failure": "other"}
        await wire.post("b", queue="q", **changes)
        await wire.deliver(await wire.claim_one("a"))
        claim = await wire.claim_one("b")
        assert (claim.destination, claim.body, claim.headers, claim.retry) == ("work", '{"a":"ü"}', {"A": "ü"}, retry)
        assert (await wire.flow("one")).limits == flow
        await wire.dead(claim)
        letter = (await wire.letter("b")).message
        assert (letter.label, letter.on_failure) == (TENANT, "other")

    async def test_post_with_a_queue_and_a_delay_keeps_its_place_until_it_is_due(self, wire: WireScene) -> None:
        """The next one waits for it."""
        await wire.post("a", queue="q", not_before=wire.now + 1_000)
        assert await wire.posted("b", queue="q") == []
        wire.clock.advance("1s")
        await wire.deliver(await wire.claim_one("a"))
        await wire.claim_one("b")

    async def test_post_with_queues_of_one_name_of_two_tenants_keeps_them_apart(self, wire: WireScene) -> None:
        """Each has its own places."""
        assert names(await wire.posted("a", queue="q")) == ["a"]
        assert names(await wire.posted("b", queue="q", tenant="other")) == ["b"]
        assert [it.lag for it in await wire.wire.queues(TENANT)] == [1]

    async def test_post_with_many_queues_in_one_call_begins_one_of_each(self, wire: WireScene) -> None:
        """Each queue has its own order."""
        posts = [new_post(f"m{number}", queue=f"q{number % 3}") for number in range(6)]
        await wire.wire.post([*posts, new_post("free")])
        assert sorted(names(await wire.claim())) == ["free", "m0", "m1", "m2"]

    # Places

    async def test_settle_of_a_retry_keeps_the_place(self, wire: WireScene) -> None:
        """The order holds over retries."""
        (claim,) = await wire.posted("a", "b", queue="q")
        for _ in range(3):
            await wire.try_again(claim)
            claim = await wire.claim_one("a")
        await wire.deliver(claim)
        await wire.claim_one("b")

    async def test_settle_without_leaving_keeps_the_place(self, wire: WireScene) -> None:
        """Another settlement frees it, such as that of a callback."""
        (claim,) = await wire.posted("a", "b", queue="q")
        await wire.deliver(claim, leaves=False)
        (other,) = await wire.posted("c")
        await wire.done(other, LeaveQueue("a"))
        await wire.claim_one("b")

    async def test_settle_with_an_heir_passes_the_place_on(self, wire: WireScene) -> None:
        """The queue goes on when the last heir has left."""
        (claim,) = await wire.posted("a", "b", queue="q")
        await wire.deliver(claim, SendPosts((new_post("callback"),)), LeaveQueue("a", "callback"), leaves=False)
        callback = await wire.claim_one("callback")
        assert (await known(wire)).lag == 2
        await wire.deliver(callback, SendPosts((new_post("again"),)), LeaveQueue("callback", "again"), leaves=False)
        await wire.deliver(await wire.claim_one("again"))
        await wire.claim_one("b")

    async def test_settle_leaves_for_a_post_without_a_place_nothing_behind(self, wire: WireScene) -> None:
        """Nor does one leave twice."""
        (claim,) = await wire.posted("a", "b", "c", queue="q")
        (other,) = await wire.posted("x")
        await wire.deliver(other, LeaveQueue("unknown"), LeaveQueue("b"), LeaveQueue("unknown", "x"))
        assert await wire.claim() == []
        await wire.deliver(claim, LeaveQueue("a"))
        await wire.claim_one("b")
        assert (await known(wire)).lag == 2

    async def test_settle_of_many_at_the_same_moment_fills_each_place_once(self, wire: WireScene) -> None:
        """Never more than the parallelism are under way."""
        await wire.wire.put_queue(TENANT, "q", parallelism=20)
        claims = await wire.posted(*(f"m{number:02d}" for number in range(50)), queue="q")
        assert len(claims) == 20
        await asyncio.gather(*(wire.deliver(claim) for claim in claims))
        assert names(await wire.claim()) == [f"m{number:02d}" for number in range(20, 40)]

    async def test_settle_sends_posts_into_queues(self, wire: WireScene) -> None:
        """They wait there as others do."""
        (claim,) = await wire.posted("a", "b", queue="q")
        await wire.deliver(claim, SendPosts((new_post("c", queue="q"),)))
        await wire.deliver(await wire.claim_one("b"))
        await wire.claim_one("c")

    async def test_expire_keeps_the_place_of_a_post_that_died(self, wire: WireScene) -> None:
        """Until its failure message leaves for it."""
        await wire.post("a", queue="q", on_failure="other")
        await wire.post("b", queue="q")
        for _ in range(LOSS_LIMIT):
            await wire.claim_one("a")
            await wire.lose()
        failure = await wire.claim_one()
        assert failure.destination == "other"
        await wire.done(failure, Log((wire.entry("a", "FAILED"),)), LeaveQueue("a"))
        await wire.claim_one("b")

    # Cancelling

    async def test_cancel_posts_that_wait_in_a_queue_drops_them(self, wire: WireScene) -> None:
        """With both entries; they are not under way any more."""
        (claim,) = await wire.posted("a", "b", "c", queue="q")
        assert await wire.wire.cancel_posts(TENANT, ["b"]) == ["b"]
        assert await wire.history("b") == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
        assert (await known(wire)).lag == 2
        await wire.deliver(claim)
        await wire.claim_one("c")

    async def test_cancel_posts_frees_the_places_of_those_that_wait(self, wire: WireScene) -> None:
        """For others than those that are cancelled with them."""
        await wire.post("a", "b", "c", queue="q", not_before=wire.now + 1_000)
        await wire.post("d", queue="q")
        assert await wire.wire.cancel_posts(TENANT, ["a", "b", "c"]) == ["a", "b", "c"]
        await wire.claim_one("d")

    async def test_cancel_posts_frees_the_place_of_a_claimed_one_when_it_ends(self, wire: WireScene) -> None:
        """And not before: it may be delivered in this moment."""
        (claim,) = await wire.posted("a", "b", queue="q")
        await wire.wire.cancel_posts(TENANT, ["a"])
        assert await wire.claim() == []
        await wire.store.settle(settlement.cancelled(claim))
        await wire.claim_one("b")

    async def test_cancel_posts_frees_the_place_of_an_heir(self, wire: WireScene) -> None:
        """A callback that is cancelled holds nobody up."""
        (claim,) = await wire.posted("a", "b", queue="q")
        callback = new_post("callback", not_before=wire.now + 1_000)
        await wire.deliver(claim, SendPosts((callback,)), LeaveQueue("a", "callback"), leaves=False)
        assert await wire.claim() == []
        await wire.wire.cancel_posts(TENANT, ["callback"])
        await wire.claim_one("b")

    # Queues

    async def test_put_queue_makes_one_and_changes_what_is_given(self, wire: WireScene) -> None:
        """Of a new one the rest is 1 and not paused; of another it stays as it is."""
        made = wire.now
        assert await wire.wire.put_queue(TENANT, "q") == Queue("q", 1, False, made, made, 0)
        wire.clock.advance("1s")
        assert await wire.wire.put_queue(TENANT, "q", parallelism=3) == Queue("q", 3, False, made, wire.now, 0)
        wire.clock.advance("1s")
        changed = await wire.wire.put_queue(TENANT, "q", paused=True)
        assert changed == Queue("q", 3, True, made, wire.now, 0) == await known(wire)
        assert await wire.wire.put_queue(TENANT, "r", parallelism=2, paused=True) == Queue(
            "r", 2, True, wire.now, wire.now, 0
        )

    async def test_put_queue_with_more_places_fills_them_at_once(self, wire: WireScene) -> None:
        """And with fewer, those under way end first."""
        first = await wire.posted("a", "b", "c", "d", "e", queue="q")
        assert (await wire.wire.put_queue(TENANT, "q", parallelism=3)).lag == 5
        first += await wire.claim()
        assert names(first) == ["a", "b", "c"]
        await wire.wire.put_queue(TENANT, "q", parallelism=1)
        for claim in first:
            assert await wire.claim() == []
            await wire.deliver(claim)
        await wire.claim_one("d")

    async def test_put_queue_paused_lets_no_post_begin(self, wire: WireScene) -> None:
        """Those under way go on, over retries too; what waits begins when it is resumed."""
        (claim,) = await wire.posted("a", "b", queue="q")
        await wire.wire.put_queue(TENANT, "q", paused=True)
        await wire.try_again(claim)
        await wire.deliver(await wire.claim_one("a"))
        assert await wire.posted("c", queue="q") == []
        assert (await wire.wire.put_queue(TENANT, "q", parallelism=2)).paused
        assert await wire.claim() == []
        await wire.wire.put_queue(TENANT, "q", paused=False)
        assert names(await wire.claim()) == ["b", "c"]

    async def test_queue_that_is_unknown_is_none(self, wire: WireScene) -> None:
        """So is that of another tenant."""
        await wire.wire.put_queue("other", "q")
        assert await wire.wire.queue(TENANT, "q") is None

    async def test_queues_are_those_of_a_tenant_by_name(self, wire: WireScene) -> None:
        """Each with the number of its posts that have not ended."""
        await wire.wire.put_queue("other", "x")
        await wire.wire.put_queue(TENANT, "b")
        await wire.post("m1", "m2", queue="c")
        await wire.wire.put_queue(TENANT, "a")
        assert [(it.name, it.lag) for it in await wire.wire.queues(TENANT)] == [("a", 0), ("b", 0), ("c", 2)]

    async def test_drop_queue_cancels_what_waits(self, wire: WireScene) -> None:
        """What is under way ends as usual."""
        (claim,) = await wire.posted("a", "b", "c", queue="q")
        assert await wire.wire.drop_queue(TENANT, "q")
        assert await wire.wire.queue(TENANT, "q") is None
        for id in ("b", "c"):
            assert await wire.history(id) == ["CREATED", "CANCELED"]
        assert await wire.open_ids() == ["a"]
        await wire.try_again(claim)
        await wire.deliver(await wire.claim_one("a"))
        assert await wire.claim() == []
        assert await wire.open_ids() == []

    async def test_drop_queue_leaves_nothing_to_a_later_one(self, wire: WireScene) -> None:
        """What is under way has no place in the new one."""
        (claim,) = await wire.posted("a", "b", queue="q")
        await wire.wire.drop_queue(TENANT, "q")
        later = await wire.posted("c", "d", queue="q")
        assert names(later) == ["c"]
        assert (await known(wire)).lag == 2
        await wire.deliver(claim)
        assert await wire.claim() == []
        await wire.deliver(later[0])
        await wire.claim_one("d")

    @pytest.mark.parametrize("tenant", [TENANT, "other"])
    async def test_drop_queue_that_is_unknown_is_false(self, wire: WireScene, tenant: str) -> None:
        """So is that of another tenant, whose queue stays."""
        await wire.wire.put_queue("other" if tenant == TENANT else TENANT, "q")
        assert not await wire.wire.drop_queue(tenant, "q")
        assert await wire.wire.queues("other" if tenant == TENANT else TENANT)
