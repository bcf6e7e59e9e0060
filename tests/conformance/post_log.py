"""The log of posts, the effects that write it, and its retention."""

import asyncio

import pytest

from batchflow.core.posts import DEDUP_WINDOW_MS, LAST_STATES, LogEntry, LoggedEntry, LogState, Posted
from batchflow.core.settlement import Log, SendPosts
from tests.conformance.retention import DAY, prune
from tests.conformance.scene import names
from tests.conformance.wire import TENANT, WireCases, WireScene, new_post


class PostLogCases(WireCases):
    """`log`, `log_entries`, `created_entries`, `open_posts`; the effects of `settle`; `prune`."""

    # Writing

    async def test_log_adds_entries_as_they_are(self, wire: WireScene) -> None:
        """With their own times; the same once more is another entry."""
        await wire.post("a")
        given = [LogEntry("a", TENANT, "ACTIVE", wire.now + 5, '{"ü":1}'), LogEntry("a", TENANT, "ERROR", 7)]
        await wire.wire.log(given)
        await wire.wire.log(given[:1])
        found = await wire.wire.log_entries(TENANT, message="a", limit=3)
        assert [entry for _, entry in reversed(found)] == [*given, given[0]]

    async def test_log_of_nothing_does_nothing(self, wire: WireScene) -> None:
        """No entry is written."""
        await wire.wire.log([])
        assert list(await wire.wire.log_entries(TENANT)) == []

    @pytest.mark.parametrize("state", ["ACTIVE", "RETRY", "ERROR", "CANCEL_REQUESTED", *sorted(LAST_STATES)])
    async def test_log_of_a_last_state_ends_a_post(self, wire: WireScene, state: LogState) -> None:
        """Other states leave it open."""
        await wire.post("a", "b")
        await wire.wire.log([wire.entry("a", state)])
        assert await wire.open_ids() == (["b"] if state in LAST_STATES else ["a", "b"])

    async def test_log_of_many_at_the_same_moment_keeps_the_order_of_each(self, wire: WireScene) -> None:
        """Hundreds of calls in one group."""
        states: list[LogState] = ["ACTIVE", "ERROR", "RETRY"]
        many = [wire.wire.log([wire.entry(f"m{it}", state) for state in states]) for it in range(300)]
        await asyncio.gather(*many)
        for number in (0, 299):
            assert await wire.history(f"m{number}") == states

    # Reading

    async def test_log_entries_are_the_latest_first(self, wire: WireScene) -> None:
        """A page at a time, each by the key of the last one before it."""
        await wire.post(*(f"m{number}" for number in range(5)))
        first = await wire.wire.log_entries(TENANT, limit=2)
        second = await wire.wire.log_entries(TENANT, before=first[-1].key, limit=2)
        third = await wire.wire.log_entries(TENANT, before=second[-1].key, limit=2)
        found = [*first, *second, *third]
        assert [entry.message for _, entry in found] == ["m4", "m3", "m2", "m1", "m0"]
        keys = [key for key, _ in found]
        assert keys == sorted(set(keys), reverse=True)
        assert keys[-1] > 0
        assert list(await wire.wire.log_entries(TENANT, before=keys[-1])) == []

    async def test_log_entries_are_those_of_one_tenant(self, wire: WireScene) -> None:
        """And of one post, if it is named; a post of another tenant has none."""
        await wire.post("a", "b")
        await wire.post("c", tenant="other")
        await wire.wire.log([wire.entry("a", "ACTIVE")])
        assert [entry.message for _, entry in await wire.wire.log_entries(TENANT)] == ["a", "b", "a"]
        of_one = await wire.wire.log_entries(TENANT, message="a")
        assert [entry.state for _, entry in of_one] == ["ACTIVE", "CREATED"]
        assert list(await wire.wire.log_entries(TENANT, message="a", before=of_one[0].key)) == list(of_one[1:])
        assert list(await wire.wire.log_entries(TENANT, message="c")) == []

    async def test_created_entries_are_those_of_the_tenant_by_id(self, wire: WireScene) -> None:
        """Whether the posts have ended or not; what is unknown or of another tenant is left out."""
        await wire.post("a", "b")
        await wire.post("c", tenant="other")
        created = wire.entry("a", "CREATED", detail='{"post":"a"}')
        await wire.wire.log([wire.entry("a", "DELIVERED")])
        assert await wire.wire.created_entries(TENANT, ["c", "a", "x", "a"]) == {"a": created}
        assert await wire.wire.created_entries(TENANT, []) == {}

    async def test_latest_entries_are_those_of_the_tenant_by_id(self, wire: WireScene) -> None:
        """Of many posts at once; what is unknown or of another tenant is left out."""
        many = [f"m{number}" for number in range(300)]
        await wire.post("a", *many)
        await wire.post("c", tenant="other")
        await wire.wire.log([wire.entry("a", "ACTIVE"), wire.entry("a", "DELIVERED", detail='{"ü":1}')])
        found = await wire.wire.latest_entries(TENANT, ["c", "a", "x", "a", *many])
        assert found["a"] == wire.entry("a", "DELIVERED", detail='{"ü":1}')
        assert {id for id, entry in found.items() if entry.state == "CREATED"} == set(many)
        assert len(found) == 301
        assert await wire.wire.latest_entries(TENANT, []) == {}

    async def test_open_posts_are_those_of_the_tenant_that_have_not_ended(self, wire: WireScene) -> None:
        """Their CREATED entries, the oldest first, a page at a time."""
        await wire.post(*(f"m{number}" for number in range(5)))
        await wire.post("other", tenant="other")
        await wire.wire.cancel_posts(TENANT, ["m1"])
        first = await wire.wire.open_posts(TENANT, limit=2)
        second = await wire.wire.open_posts(TENANT, after=first[-1].key, limit=2)
        assert [entry.message for _, entry in [*first, *second]] == ["m0", "m2", "m3", "m4"]
        assert list(await wire.wire.open_posts(TENANT, after=second[-1].key)) == []
        (of_log,) = await wire.wire.log_entries(TENANT, message="m0")
        assert first[0] == of_log == LoggedEntry(of_log.key, wire.entry("m0", "CREATED", detail='{"post":"m0"}'))

    # Effects

    async def test_settle_sends_posts_as_post_does(self, wire: WireScene) -> None:
        """With their CREATED entry, deduplicated, and not published if their id is known."""
        (claim,) = await wire.posted("a", dedup="k")
        sent = SendPosts((new_post("b"), new_post("c", dedup="k"), new_post("a"), new_post("b")))
        await wire.deliver(claim, sent)
        assert names(await wire.claim()) == ["b"]
        assert await wire.history("b") == ["CREATED"]
        assert await wire.history("c") == []
        assert await wire.post("d", dedup="k") == [Posted("a", True)]

    async def test_settle_logs_with_the_end_of_the_claim(self, wire: WireScene) -> None:
        """Of hundreds at once, the entries of each in their order."""
        await wire.post(*(f"m{number:03d}" for number in range(300)))
        claims = await wire.claim(300)
        logs = [Log((wire.entry(claim.id, "ACTIVE"), wire.entry(claim.id, "DELIVERED"))) for claim in claims]
        await asyncio.gather(*(wire.done(claim, log) for claim, log in zip(claims, logs, strict=True)))
        assert await wire.open_ids() == []
        for id in ("m000", "m299"):
            assert await wire.history(id) == ["CREATED", "ACTIVE", "DELIVERED"]

    async def test_settle_of_a_retry_logs_too(self, wire: WireScene) -> None:
        """The post is open, and is claimed again."""
        (claim,) = await wire.posted("a")
        await wire.try_again(claim, Log((wire.entry("a", "ERROR"), wire.entry("a", "RETRY"))))
        assert await wire.history("a") == ["CREATED", "ERROR", "RETRY"]
        assert await wire.open_ids() == ["a"]
        await wire.claim_one("a")

    async def test_settle_of_a_stale_claim_writes_nothing(self, wire: WireScene) -> None:
        """Neither entries nor posts."""
        (claim,) = await wire.posted("a")
        await wire.lose()
        again = await wire.claim_one("a")
        assert (await wire.deliver(claim, SendPosts((new_post("b"),)))).stale
        assert await wire.history("a") == ["CREATED"]
        assert not (await wire.deliver(again)).stale
        assert await wire.claim() == []

    async def test_settle_twice_at_the_same_moment_writes_once(self, wire: WireScene) -> None:
        """The second settlement is stale."""
        (claim,) = await wire.posted("a")
        sent = SendPosts((new_post("b"),))
        answers = await asyncio.gather(wire.deliver(claim, sent), wire.deliver(claim, sent))
        assert [answer.stale for answer in answers] == [False, True]
        assert await wire.history("a") == ["CREATED", "DELIVERED"]
        await wire.claim_one("b")

    # Retention

    async def test_prune_removes_old_entries(self, wire: WireScene) -> None:
        """Of posts that have ended; younger ones stay, and keys go on."""
        (claim,) = await wire.posted("a")
        await wire.deliver(claim)
        latest = (await wire.wire.log_entries(TENANT))[0].key
        wire.clock.advance("2d")
        assert await prune(wire) == 2
        assert list(await wire.wire.log_entries(TENANT)) == []
        assert await wire.wire.created_entries(TENANT, ["a"]) == {}
        await wire.post("b")
        assert await prune(wire) == 0
        ((key, entry),) = await wire.wire.log_entries(TENANT)
        assert (entry.message, key > latest) == ("b", True)

    async def test_prune_keeps_the_log_of_a_post_until_its_latest_entry_is_old(self, wire: WireScene) -> None:
        """As a whole: what has ended after a long wait can still be described. An open post stays known."""
        await wire.post("a", not_before=wire.now + 365 * DAY)
        await wire.wire.log([wire.entry("a", "ERROR")])
        wire.clock.advance("300d")
        assert await prune(wire) == 0
        assert await wire.history("a") == ["CREATED", "ERROR"]
        assert await wire.open_ids() == ["a"]
        assert await wire.post("a") == [Posted("a")]
        await wire.wire.cancel_posts(TENANT, ["a"])
        assert await prune(wire) == 0
        assert await wire.history("a") == ["CREATED", "ERROR", "CANCEL_REQUESTED", "CANCELED"]
        wire.clock.advance("2d")
        assert await prune(wire) == 4
        assert await wire.history("a") == []

    async def test_prune_forgets_the_ids_of_ended_posts(self, wire: WireScene) -> None:
        """One that is no longer in the log may be posted again."""
        (claim,) = await wire.posted("a")
        await wire.deliver(claim)
        wire.clock.advance("2d")
        await prune(wire)
        assert names(await wire.posted("a")) == ["a"]

    async def test_prune_removes_deduplication_keys_whose_window_is_over(self, wire: WireScene) -> None:
        """Whatever the retention; others stay."""
        await wire.post("a", dedup="k1")
        wire.clock.advance("1s")
        await wire.post("b", dedup="k2")
        wire.clock.advance(f"{DEDUP_WINDOW_MS - 1_000}ms")
        assert await prune(wire) == 1
        assert await wire.post("c", dedup="k2") == [Posted("b", True)]
        assert await wire.post("d", dedup="k1") == [Posted("d")]

    async def test_prune_of_the_log_goes_in_slices(self, wire: WireScene) -> None:
        """However many entries there are, it comes to an end."""
        await wire.wire.log([wire.entry("a", "ERROR") for _ in range(6_000)])
        wire.clock.advance("2d")
        assert await prune(wire) == 6_000
        assert await wire.store.prune(DAY) == 0
