"""Publishing messages."""

import asyncio

import pytest

from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Ending, Settlement
from batchflow.errors import StoreError
from tests.conformance.scene import Cases, Scene, message, names


class PublishCases(Cases):
    """`publish`."""

    async def test_publish_says_of_each_whether_it_was_new(self, scene: Scene) -> None:
        """In the order they were given."""
        assert await scene.publish("a") == [True]
        assert await scene.publish("b", "a", "c") == [True, False, True]

    async def test_publish_of_nothing_is_nothing(self, scene: Scene) -> None:
        """An empty list has an empty answer."""
        assert list(await scene.store.publish([])) == []

    async def test_publish_takes_an_id_once_per_call(self, scene: Scene) -> None:
        """An id that comes twice in one call is added once."""
        assert await scene.publish("a", "a") == [True, False]
        assert names(await scene.claim()) == ["a"]

    async def test_publish_delivers_what_was_given(self, scene: Scene) -> None:
        """Body, headers and retry policy come out as they went in; a message of no batch says so."""
        retry = RetryPolicy(retries=7, first="250ms", factor=1.5, cap="9s", jitter=0.25)
        await scene.publish("a", body='{"x": [1, "é", null]}', headers={"X-One": "1", "x-two": "ü"}, retry=retry)
        claim = await scene.claim_one("a")
        assert claim.body == '{"x": [1, "é", null]}'
        assert dict(claim.headers) == {"X-One": "1", "x-two": "ü"}
        assert claim.retry == retry
        assert (claim.destination, claim.batch, claim.number, claim.item) == ("work", None, -1, "")
        assert (claim.failures, claim.losses, claim.journal) == (0, 0, ())

    async def test_publish_keeps_a_message_back_until_not_before(self, scene: Scene) -> None:
        """It is claimed from that millisecond on, and the claim says when."""
        await scene.publish("a", not_before=scene.now + 500)
        assert await scene.next_due() == scene.now + 500
        scene.clock.advance("499ms")
        assert await scene.claim() == []
        scene.clock.advance("1ms")
        await scene.claim_one("a")

    async def test_publish_of_a_waiting_id_changes_nothing(self, scene: Scene) -> None:
        """Neither its body nor its time."""
        await scene.publish("a", body="1", not_before=scene.now + 10)
        assert await scene.publish("a", body="2") == [False]
        assert await scene.claim() == []
        scene.clock.advance("10ms")
        assert (await scene.claim_one("a")).body == "1"

    async def test_publish_of_a_leased_id_changes_nothing(self, scene: Scene) -> None:
        """It is not delivered a second time."""
        await scene.leased("a")
        assert await scene.publish("a") == [False]
        assert await scene.claim() == []

    async def test_publish_of_a_kept_id_changes_nothing(self, scene: Scene) -> None:
        """A finished run that is kept is known by its id."""
        await scene.done(await scene.leased("a", keep=True))
        assert await scene.publish("a", keep=True) == [False]
        assert await scene.claim() == []

    async def test_publish_of_a_dead_id_changes_nothing(self, scene: Scene) -> None:
        """A dead letter is known by its id."""
        await scene.dead(await scene.leased("a"))
        assert await scene.publish("a") == [False]
        assert await scene.claim() == []

    async def test_publish_to_an_unknown_batch_adds_nothing(self, scene: Scene) -> None:
        """As after the batch has been removed by retention."""
        assert await scene.publish("bat_x.p1", batch="bat_x") == [False]

    async def test_publish_to_an_ended_batch_adds_nothing(self, scene: Scene) -> None:
        """An empty batch has ended at once."""
        await scene.start([])
        assert await scene.publish("bat_a.p1", batch="bat_a") == [False]

    async def test_publish_to_a_batch_being_cancelled_adds_nothing(self, scene: Scene) -> None:
        """While a claim of it is still held."""
        await scene.enter()
        await scene.store.cancel_batch("bat_a")
        assert await scene.publish("bat_a.p1", batch="bat_a") == [False]

    async def test_publish_makes_a_flow_key_with_the_messages_limits(self, scene: Scene) -> None:
        """A key needs no other setting up."""
        limits = FlowControl(key="mail", parallelism=2, rate=10, period="1m")
        await scene.publish("a", "b", flow=limits)
        status = await scene.flow("mail")
        assert status.limits == limits
        assert (status.pinned, status.paused, status.in_use, status.waiting) == (False, False, 0, 2)

    async def test_publish_moves_a_keys_limits_to_the_latest_messages(self, scene: Scene) -> None:
        """Back and forth, also to no limit."""
        for number, parallelism in enumerate((2, None, 3, 2)):
            limits = FlowControl(key="mail", parallelism=parallelism)
            await scene.publish(f"a{number}", flow=limits)
            assert (await scene.flow("mail")).limits == limits

    async def test_publish_leaves_pinned_limits_alone(self, scene: Scene) -> None:
        """The operator wins; after `unpin` the latest message's limits are in force."""
        await scene.publish("a", flow=FlowControl(key="mail", parallelism=5))
        await scene.store.pin(FlowControl(key="mail", parallelism=1))
        await scene.publish("b", flow=FlowControl(key="mail", parallelism=7))
        assert (await scene.flow("mail")).limits.parallelism == 1
        await scene.store.unpin("mail")
        assert (await scene.flow("mail")).limits.parallelism == 7

    async def test_publish_adds_one_of_those_that_hold_each_other_off(self, scene: Scene) -> None:
        """While a message with the same `open_dedup` has not ended; in one call as in several."""
        assert await scene.publish("a", "b", open_dedup="nightly") == [True, False]
        assert await scene.store.under_way("nightly") == "a"
        claim = await scene.claim_one("a")
        assert await scene.publish("c", open_dedup="nightly") == [False]
        assert await scene.publish("d", open_dedup="daily") == [True]
        await scene.done(claim)
        assert await scene.store.under_way("nightly") is None
        assert await scene.publish("c", open_dedup="nightly") == [True]

    @pytest.mark.parametrize("ending", ["dead", "cancelled", "failed", "done"])
    async def test_publish_is_not_held_off_by_what_has_ended(self, scene: Scene, ending: Ending) -> None:
        """However it ended."""
        claim = await scene.leased("a", keep=True, open_dedup="nightly")
        await scene.store.settle(Settlement(claim.id, claim.fence, ending, '"ok"', "Boom: no"))
        assert await scene.publish("b", open_dedup="nightly") == [True]

    async def test_publish_takes_thousands_at_once(self, scene: Scene) -> None:
        """As many as one likes, each once."""
        many = [f"m{number:05d}" for number in range(2_500)]
        assert await scene.publish(*many) == [True] * 2_500
        assert await scene.publish(*many) == [False] * 2_500
        assert names(await scene.claim(3_000)) == many

    async def test_publish_that_cannot_be_stored_fails_alone(self, scene: Scene) -> None:
        """One bad operation fails alone, whatever is asked for at the same moment."""
        bad = message("bad", body='"\ud800"')  # half a surrogate pair has no encoding
        answers = await asyncio.gather(
            scene.publish("a"),
            scene.store.publish([bad]),
            scene.publish("b"),
            scene.store.mark("welcome", ["u1"], None),
            return_exceptions=True,
        )
        assert answers[0] == [True]
        assert isinstance(answers[1], StoreError)
        assert not answers[1].retryable
        assert answers[2] == [True]
        assert names(await scene.claim()) == ["a", "b"]
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}

    async def test_publish_is_all_or_nothing(self, scene: Scene) -> None:
        """A call with a message that cannot be stored stores none of its messages."""
        with pytest.raises(StoreError):
            await scene.store.publish([message("a"), message("bad", body='"\ud800"')])
        assert await scene.claim() == []
        assert await scene.publish("a") == [True]
