"""Workflow runs of QStash: how posts begin them, add to them and are refused by them."""

from typing import Any

import pytest

from batchflow.core.call import Body
from batchflow.core.posts import Posted
from batchflow.core.wire_runs import MAX_ENTRIES_SIZE, AdoptRun, JoinRun, RunEntry, RunLink, RunMember, WireRun
from tests.conformance.retention import prune
from tests.conformance.run_scene import BEGAN, HEAD, URL, RunScene, RunScenes, adds, awaits, begins, ends
from tests.conformance.wire import TENANT, new_post

ANY_LINK: list[Any] = [adds("x"), JoinRun("r"), awaits(), AdoptRun("r", "{}")]


class WireRunCases(RunScenes):
    """The links of `post`; `claim_entry`, `wire_run`, `wire_runs`, `run_entries`, `run_members`; `prune`."""

    # Beginning

    async def test_post_begins_a_run_with_its_first_entry(self, runs: RunScene) -> None:
        """The run, the entry and the post are there, and the post delivers it."""
        await runs.begun("héllo", created_at=BEGAN, config='{"c":1}', invoker='{"by":"p"}')
        expected = WireRun("r", TENANT, URL, "RUN_STARTED", '{"c":1}', '{"by":"p"}', BEGAN, None, None, 5)
        assert await runs.found() == expected
        assert await runs.delivered("s1") == ["héllo"]
        assert list(await runs.wire.run_entries(TENANT, "r")) == [RunEntry("s1", Body(text="héllo"), runs.now)]
        assert list(await runs.wire.run_members(TENANT, "r")) == [RunMember("s1", 1, runs.now)]
        assert await runs.history("s1") == ["CREATED"]

    async def test_post_keeps_bodies_as_they_came(self, runs: RunScene) -> None:
        """Bytes that are not text as well as an empty body."""
        binary = Body.of(b"\xff\x00")
        link = begins()._replace(entries=(binary, Body()))
        await runs.link("s1", link)
        found = await runs.wire.claim_entry(TENANT, "r", "s1")
        assert found is not None
        assert [entry.body for entry in found] == [binary, Body()]
        assert (await runs.found()).size == len(binary.text)

    async def test_post_begins_a_run_with_several_entries(self, runs: RunScene) -> None:
        """The first post delivers all of them, and the next ones of the call theirs after them, in their order."""
        posts = [new_post("s1", link=begins("a", "b")), new_post("s2", link=adds("c")), new_post("s3", link=adds("d"))]
        assert await runs.wire.post(posts) == [Posted("s1"), Posted("s2"), Posted("s3")]
        assert await runs.members() == [("s1", 2), ("s2", 3), ("s3", 4)]
        assert await runs.delivered("s1") == ["a", "b"]
        assert await runs.delivered("s2") == ["a", "b", "c"]
        assert await runs.delivered("s3") == ["a", "b", "c", "d"]

    async def test_post_that_begins_a_live_run_changes_nothing(self, runs: RunScene) -> None:
        """Its sender gets the id of the first post of that run; nothing is published, and its key is not used."""
        await runs.begun("a")
        posts = [
            new_post("other", link=begins("b"), dedup="k"),
            new_post("s2", link=adds("c", created_at=1), dedup="k"),
        ]
        assert [it.refused for it in await runs.wire.post(posts)] == ["ended", "ended"]
        assert await runs.link("other", begins("b", config="{}")) == Posted("s1", deduplicated=True)
        assert await runs.bodies() == ["a"]
        assert await runs.claim() == []
        assert await runs.history("other") == []

    async def test_post_begins_a_run_twice_in_one_call_once(self, runs: RunScene) -> None:
        """The second one is taken for the first."""
        posts = [new_post("s1", link=begins("a")), new_post("s2", link=begins("b")), new_post("s3", link=adds("c"))]
        assert await runs.wire.post(posts) == [Posted("s1"), Posted("s1", True), Posted("s3")]
        assert await runs.bodies() == ["a", "c"]

    async def test_post_replaces_a_run_that_has_ended(self, runs: RunScene) -> None:
        """With all of it; a post of the earlier one that is under way delivers nothing more and ends nothing."""
        claim = await runs.begun("a")
        await runs.link("s2", adds("b"))
        await runs.end(result="1")
        assert await runs.link("n1", begins("n", created_at=BEGAN + 1)) == Posted("n1")
        found = await runs.found()
        assert (found.state, found.created_at, found.ended_at, found.result) == ("RUN_STARTED", BEGAN + 1, None, None)
        assert (await runs.bodies(), await runs.members()) == (["n"], [("n1", 1)])
        assert await runs.delivered("s1") is None
        assert not await runs.end(created_at=BEGAN)
        await runs.deliver(claim, ends(created_at=BEGAN))
        assert await runs.delivered("n1") == ["n"]

    async def test_post_with_a_known_key_begins_no_run(self, runs: RunScene) -> None:
        """It is taken for the earlier post, whatever its link is."""
        await runs.link("s1", begins(), dedup="k")
        assert await runs.link("s2", begins(run="other"), dedup="k") == Posted("s1", True)
        assert await runs.link("s3", adds("b", "unknown"), dedup="k") == Posted("s1", True)
        assert await runs.wire.wire_run(TENANT, "other") is None

    async def test_post_adopts_a_run(self, runs: RunScene) -> None:
        """It delivers the first entry, whatever was added meanwhile, and the run has its settings; once."""
        await runs.begun("a")
        await runs.link("s2", adds("b"))
        for _ in range(2):
            assert await runs.link("init", AdoptRun("r", '{"c":2}', BEGAN)) == Posted("init")
        assert await runs.members() == [("s1", 1), ("s2", 2), ("init", 1)]
        assert await runs.delivered("init") == ["a"]
        assert (await runs.found()).config == '{"c":2}'
        assert await runs.bodies() == ["a", "b"]

    # Adding

    async def test_post_adds_entries_in_the_order_in_which_they_come(self, runs: RunScene) -> None:
        """Each post delivers those up to its own, however late it is claimed."""
        await runs.begun("a")
        for number in range(2, 6):
            assert await runs.link(f"s{number}", adds(f"{number}", created_at=BEGAN)) == Posted(f"s{number}")
        assert await runs.delivered("s3") == ["a", "2", "3"]
        assert await runs.delivered("s1") == ["a"]
        assert await runs.delivered("s5") == await runs.bodies() == ["a", "2", "3", "4", "5"]
        assert (await runs.found()).size == 5

    async def test_run_members_names_a_post_that_joins_a_run_without_an_entry(self, runs: RunScene) -> None:
        """It is one of the posts of the run, and delivers none of its entries."""
        await runs.begun("a")
        assert await runs.link("call", JoinRun("r", BEGAN)) == Posted("call")
        await runs.claim_one("call")
        assert (await runs.members(), await runs.bodies()) == ([("s1", 1), ("call", 0)], ["a"])
        assert await runs.delivered("call") == []

    async def test_post_of_a_known_id_is_not_refused(self, runs: RunScene) -> None:
        """Whoever did not hear the answer asks again, also after the end of the run; nothing is added twice."""
        await runs.begun("a")
        for _ in range(2):
            assert await runs.link("s2", adds("b")) == Posted("s2")
        await runs.end()
        assert await runs.link("s2", adds("b")) == Posted("s2")
        assert await runs.bodies() == ["a", "b"]

    async def test_post_of_a_known_id_adds_nothing_after_its_log_is_removed(self, runs: RunScene) -> None:
        """The run knows its posts as long as it is there."""
        await runs.deliver(await runs.begun("a"))
        await runs.link("w", awaits(), not_before=runs.now + 9 * 86_400_000)
        runs.clock.advance("3d")
        assert await prune(runs) > 0
        assert await runs.history("s1") == []
        assert await runs.link("s1", adds("a")) == Posted("s1")
        assert await runs.bodies() == ["a"]
        assert await runs.claim() == []

    # Refusals

    @pytest.mark.parametrize("link", ANY_LINK)
    @pytest.mark.parametrize("why", ["unknown", "ended", "another time", "another tenant"])
    async def test_post_is_refused_by_a_run_that_takes_none(self, runs: RunScene, link: RunLink, why: str) -> None:
        """Nothing of it is left."""
        match why:
            case "ended":
                await runs.begun("a")
                await runs.end()
            case "another time":
                await runs.begun("a")
                link = link._replace(created_at=BEGAN - 1)
            case "another tenant":
                await runs.begun("a", tenant="other")
            case _:
                pass
        assert await runs.link("s2", link) == Posted("s2", refused="ended")
        assert await runs.history("s2") == []
        assert await runs.waiting() == await runs.claim() == []
        if why != "unknown":
            tenant = "other" if why == "another tenant" else TENANT
            assert await runs.bodies(tenant=tenant) == ["a"]
            assert (await runs.found(tenant=tenant)).config == "{}"

    async def test_post_refuses_all_of_a_call_or_none(self, runs: RunScene) -> None:
        """The posts before it and those without a run, with their keys, queues and runs."""
        await runs.begun("a")
        await runs.link("w", awaits("kept"), not_before=runs.now + 1_000)
        await runs.notify("}", "r")
        posts = [
            new_post("plain", dedup="k"),
            new_post("queued", queue="q"),
            new_post("n1", link=begins(run="new")),
            new_post("s2", link=adds("b")),
            new_post("w2", link=awaits()),
            new_post("s3", link=adds("c", "unknown")),
            new_post("last"),
        ]
        answers = await runs.wire.post(posts)
        assert list(answers) == [Posted(it.message.id, refused="ended") for it in posts]
        assert await runs.claim() == []
        assert await runs.wire.wire_run(TENANT, "new") is None
        assert await runs.bodies() == ["a"]
        assert await runs.members() == [("s1", 1), ("w", 0)]
        assert list(await runs.wire.queues(TENANT)) == []
        assert await runs.post("again", dedup="k") == [Posted("again")]
        # Of the event that the refused wait would have got.
        assert await runs.link("w2", awaits()) == Posted("w2")
        assert await runs.delivered("w2") == ["a", HEAD + "}"]

    async def test_post_is_refused_by_a_run_that_is_full(self, runs: RunScene) -> None:
        """One that fits exactly is not; all posts of a call count, and a refused call leaves the run as it was."""
        half = "ü" * (MAX_ENTRIES_SIZE // 2)
        assert await runs.link("big", begins(half, half, "x", run="big")) == Posted("big", refused="full")
        assert await runs.wire.wire_run(TENANT, "big") is None
        await runs.begun("abc")
        refused = [new_post("s2", link=adds(half)), new_post("s3", link=adds(half))]
        assert await runs.wire.post(refused) == [Posted("s2", refused="full"), Posted("s3", refused="full")]
        assert await runs.link("s2", adds(half)) == Posted("s2")
        rest = MAX_ENTRIES_SIZE - len(half) - 3
        assert await runs.link("s3", adds("y" * rest + "y")) == Posted("s3", refused="full")
        assert await runs.link("s3", adds("y" * rest)) == Posted("s3")
        assert await runs.link("s4", adds("z")) == Posted("s4", refused="full")
        assert await runs.link("s5", adds("")) == Posted("s5")
        assert (await runs.found()).size == MAX_ENTRIES_SIZE
        assert [len(text) for text in await runs.bodies()] == [3, len(half), rest, 0]

    async def test_post_of_a_late_entry_is_recorded_in_a_run_that_has_ended(self, runs: RunScene) -> None:
        """Nothing is published for it, and a repeat adds nothing; in a live run it is an entry as any other."""
        await runs.begun("a")
        assert await runs.link("l1", adds("b", late=True)) == Posted("l1")
        await runs.claim_one("l1")
        await runs.end()
        for _ in range(2):
            assert await runs.link("l2", adds("c", late=True, created_at=BEGAN)) == Posted("l2")
        assert await runs.bodies() == ["a", "b", "c"]
        assert await runs.members() == [("s1", 1), ("l1", 2)]
        assert await runs.claim() == []
        assert await runs.history("l2") == []
        assert await runs.delivered("l2") is None
        assert await runs.link("l3", adds("d", late=True, created_at=1)) == Posted("l3", refused="ended")
        assert await runs.link("l3", adds("d", "unknown", late=True)) == Posted("l3", refused="ended")

    async def test_post_of_a_late_entry_is_added_to_a_run_that_is_full(self, runs: RunScene) -> None:
        """It waits for it; no other one is."""
        await runs.begun("x" * MAX_ENTRIES_SIZE)
        assert await runs.link("s2", adds("y")) == Posted("s2", refused="full")
        assert await runs.link("l1", adds("b", late=True)) == Posted("l1")
        delivered = await runs.delivered("l1")
        assert (delivered or [])[1:] == ["b"]
        assert (await runs.found()).size == MAX_ENTRIES_SIZE + 1
        assert await runs.link("s3", adds("")) == Posted("s3", refused="full")

    async def test_post_that_invokes_a_run_that_goes_on_is_refused(self, runs: RunScene) -> None:
        """With all of its call; its repeat is not, and when that run has ended it begins another one."""
        await runs.begun("a", invoker='{"by":"p"}')
        assert await runs.link("s1", begins("b", invoker='{"by":"p"}')) == Posted("s1")
        refused = [new_post("plain"), new_post("n1", link=begins("n", invoker='{"by":"q"}'))]
        assert await runs.wire.post(refused) == [Posted(id, refused="live") for id in ("plain", "n1")]
        assert (await runs.bodies(), await runs.claim()) == (["a"], [])
        await runs.end()
        assert await runs.link("n1", begins("n", invoker='{"by":"q"}')) == Posted("n1")

    async def test_post_that_belongs_to_a_begin_that_is_deduplicated_is_so_too(self, runs: RunScene) -> None:
        """One of the call that names the time of the run that goes on is added to it."""
        await runs.begun("a")
        again = BEGAN + 5
        posts = [
            new_post("n1", link=begins("n", created_at=again)),
            new_post("n2", link=adds("b", created_at=again)),
            new_post("n3", link=JoinRun("r")),
            new_post("s2", link=adds("c", created_at=BEGAN)),
        ]
        assert await runs.wire.post(posts) == [*[Posted("s1", True)] * 3, Posted("s2")]
        assert await runs.bodies() == ["a", "c"]
        assert await runs.history("n2") == await runs.history("n3") == []

    # Deliveries and listings

    async def test_claim_entry_of_what_is_not_delivered_is_none(self, runs: RunScene) -> None:
        """Of a run that is unknown, another tenant's or ended, and of a post that is not one of the run."""
        await runs.begun("a")
        assert await runs.delivered("s1", run="unknown") is None
        assert await runs.delivered("s1", tenant="other") is None
        assert await runs.delivered("unknown") is None
        await runs.end()
        assert await runs.delivered("s1") is None

    async def test_wire_run_is_apart_from_one_of_another_tenant(self, runs: RunScene) -> None:
        """The same id is that of two runs, with their own entries, waits and ends."""
        for tenant in (TENANT, "other"):
            await runs.link(f"{tenant}1", begins(tenant), tenant=tenant)
            await runs.link(f"{tenant}2", awaits(), tenant=tenant, not_before=runs.now + 1_000)
        assert await runs.bodies() == [TENANT]
        assert await runs.bodies(tenant="other") == ["other"]
        assert await runs.waiting(tenant="other") == ["other2"]
        assert await runs.notify("}") == [f"{TENANT}2"]
        await runs.end()
        assert (await runs.found(tenant="other")).state == "RUN_STARTED"
        assert await runs.notify("}", "r", tenant="other") == ["other2"]
        assert [run.tenant for run in await runs.wire.wire_runs("other")] == ["other"]

    async def test_wire_runs_lists_the_latest_first(self, runs: RunScene) -> None:
        """Page by page, runs of the same moment by their ids; those that have ended too."""
        order = [("c", 3), ("b", 2), ("a", 2), ("d", 1)]
        for run, at in sorted(order):
            await runs.link(f"{run}1", begins(run=run, created_at=at))
        await runs.end("b")
        assert [(run.id, run.created_at) for run in await runs.wire.wire_runs(TENANT)] == order
        found: list[WireRun] = []
        while page := await runs.wire.wire_runs(
            TENANT, before=(found[-1].created_at, found[-1].id) if found else None, limit=2
        ):
            found += page
        assert [(run.id, run.created_at) for run in found] == order
        assert list(await runs.wire.wire_runs("other")) == []

    async def test_run_entries_of_an_unknown_run_are_empty(self, runs: RunScene) -> None:
        """Entries and posts, and waits for an event that nobody waits for."""
        assert await runs.wire.wire_run(TENANT, "r") is None
        assert await runs.bodies() == await runs.members() == await runs.waiting() == []

    async def test_prune_removes_runs_that_ended_long_ago(self, runs: RunScene) -> None:
        """With their entries and posts; those that ended later, or have not ended, stay."""
        for run in ("old", "new", "live"):
            await runs.link(f"{run}1", begins(run, run=run))
            await runs.link(f"{run}2", adds("b", run))
        await runs.end("old")
        runs.clock.advance("2d")
        await runs.end("new")
        await runs.store.register("w1", 30_000)
        while await prune(runs):
            pass
        assert await runs.wire.wire_run(TENANT, "old") is None
        assert await runs.bodies("old") == await runs.members("old") == []
        for run in ("new", "live"):
            assert await runs.bodies(run) == [run, "b"]
            assert await runs.members(run) == [(f"{run}1", 1), (f"{run}2", 2)]
