"""Dead letters as they are stored, searched and grouped, and the calls of their failure functions."""

import asyncio

import pytest

from batchflow.core import ids, settlement
from batchflow.core.batch import Failure
from batchflow.core.dead_letters import (
    KEPT_ATTEMPTS,
    DeadLetterQuery,
    FailureCall,
    LoggedAttempt,
    fingerprint_of,
)
from batchflow.core.message import LOSS_LIMIT, LOST
from batchflow.core.report import TRACEBACK_HEADER
from batchflow.core.settlement import Settlement
from tests.conformance.scene import Cases, Scene, ran


def report(name: str, code: str = "raise Boom()") -> str:
    """The stored text of an error that the user's own code has raised."""
    return f'Boom: {name}{TRACEBACK_HEADER}  File "/srv/app/reviews.py", line 41, in execute\n    {code}\nBoom: {name}'


def failed_attempt(at: int, error: str = "Boom: no", took: float | None = None) -> LoggedAttempt:
    """A failed attempt as it is kept."""
    return LoggedAttempt(at, took, error)


class DeadLetterCases(Cases):
    """`dead_letter`, `dead_letters`, `dead_letter_groups`."""

    async def test_dead_letter_is_whole(self, scene: Scene) -> None:
        """Message, journal, attempts, and what its error is; the list leaves out what may be large."""
        await scene.publish("a", body='{"n":1}', headers={"x": "1"}, label="nightly")
        claim = await scene.claim_one("a")
        await scene.record(claim, ran(1, "one"))
        await scene.dead(claim, "TimeoutError: too long")
        letter = await scene.letter("a")
        assert (letter.message.body, letter.message.headers, letter.journal) == (
            '{"n":1}',
            {"x": "1"},
            (ran(1, "one"),),
        )
        assert (letter.status, letter.fingerprint) == (504, fingerprint_of("TimeoutError: too long"))
        assert (letter.workflow, letter.label, letter.failure) == (None, "nightly", None)
        assert letter.attempt_log == (failed_attempt(scene.now, "TimeoutError: too long"),)
        (listed,) = await scene.store.dead_letters()
        assert (listed.message.body, listed.message.headers) == ("null", {})
        assert (listed.journal, listed.attempt_log) == ((), ())
        assert (listed.id, listed.status, listed.error) == ("a", 504, letter.error)

    async def test_dead_letter_of_an_item_has_its_batch(self, scene: Scene) -> None:
        """Its workflow, label and id."""
        await scene.start(["u1"], label="nightly")
        (claim,) = await scene.items()
        await scene.dead(claim)
        letter = await scene.letter(claim.id)
        assert (letter.item, letter.number, letter.workflow, letter.label) == ("u1", 0, "welcome", "nightly")

    async def test_dead_letter_of_what_is_not_dead_is_none(self, scene: Scene) -> None:
        """Unknown, waiting, finished, or redriven."""
        claim = await scene.leased("a", keep=True)
        assert await scene.store.dead_letter("unknown") is None
        assert await scene.store.dead_letter("a") is None
        await scene.done(claim)
        assert await scene.store.dead_letter("a") is None
        await scene.dead(await scene.leased("b"))
        await scene.store.redrive("b")
        assert await scene.store.dead_letter("b") is None

    async def test_dead_letter_has_its_latest_attempts(self, scene: Scene) -> None:
        """Failed steps, failures and losses, newest first, with the time that each took; a redrive keeps them."""
        claim = await scene.leased("a")
        failures = (Failure("Boom", "", "Boom: one"), Failure("Boom", "", "Boom: two"))
        await scene.store.settle(settlement.suspended(claim, scene.now, (), failures=failures)._replace(took_ms=12.34))
        await scene.claim_one("a")
        at = scene.now
        await scene.lose()
        lost_at = (await scene.run("a")).created_at + scene.now - at
        claim = await scene.claim_one("a")
        await scene.dead(claim, "Boom: three")
        log = (await scene.letter("a")).attempt_log
        assert [one.error for one in log] == ["Boom: three", LOST, "Boom: two", "Boom: one"]
        assert [one.took_ms for one in log] == [None, None, 12.3, 12.3]
        assert log[0].at == scene.now == lost_at
        assert log[3].at == at
        await scene.store.redrive("a")
        for number in range(KEPT_ATTEMPTS):
            await scene.store.settle(settlement.retry(await scene.claim_one("a"), scene.now, f"Boom: {number}"))
        await scene.dead(await scene.claim_one("a"), "Boom: last")
        log = (await scene.letter("a")).attempt_log
        assert [one.error for one in log] == ["Boom: last"] + [f"Boom: {n}" for n in range(9, 0, -1)]

    async def test_dead_letter_of_lost_workers_has_their_status(self, scene: Scene) -> None:
        """503, and one group whatever the number of losses."""
        await scene.publish("a")
        for _ in range(LOSS_LIMIT):
            await scene.claim_one("a")
            await scene.lose()
        letter = await scene.letter("a")
        assert (letter.status, letter.fingerprint) == (503, fingerprint_of(letter.error))
        assert len(letter.attempt_log) == LOSS_LIMIT

    # Searching

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            (DeadLetterQuery(workflow="welcome"), ["u2", "u1"]),
            (DeadLetterQuery(workflow="work"), ["b", "a"]),
            (DeadLetterQuery(workflow="other"), []),
            (DeadLetterQuery(batch="bat_a"), ["u2", "u1"]),
            (DeadLetterQuery(batch="bat_x"), []),
            (DeadLetterQuery(destination="execute"), ["u2", "u1"]),
            (DeadLetterQuery(destination="https://app.example/api/work?x=1"), ["b", "a"]),
            (DeadLetterQuery(destination="ork"), []),
            (DeadLetterQuery(run="a"), ["a"]),
            (DeadLetterQuery(item="u1"), ["u1"]),
            (DeadLetterQuery(batch="bat_a", item="u1"), ["u1"]),
            (DeadLetterQuery(label="nightly"), ["u2", "u1"]),
            (DeadLetterQuery(label="single"), ["b"]),
            (DeadLetterQuery(status=504), ["b"]),
            (DeadLetterQuery(status=500), ["u2", "u1", "a"]),
            (DeadLetterQuery(fingerprint=fingerprint_of(report("x"))), ["u2", "u1"]),
            (DeadLetterQuery(since=2_000, until=3_000), ["u1"]),
            (DeadLetterQuery(workflow="welcome", status=504), []),
        ],
    )
    async def test_dead_letters_are_those_that_match(
        self, scene: Scene, query: DeadLetterQuery, found: list[str]
    ) -> None:
        """Every part of the filter has to."""
        begun = scene.now
        await scene.dead(await scene.leased("a"), "Boom: a")
        scene.clock.advance("1s")
        await scene.dead(await scene.leased("b", label="single"), "TimeoutError: b")
        scene.clock.advance("1s")
        await scene.start(["u1", "u2"], label="nightly")
        for claim in await scene.items():
            await scene.dead(claim, report(claim.item))
            scene.clock.advance("1s")
        if query.since is not None and query.until is not None:
            query = query._replace(since=begun + query.since, until=begun + query.until)
        letters = await scene.store.dead_letters(query)
        assert [letter.item or letter.id for letter in letters] == found
        groups = await scene.store.dead_letter_groups(query)
        assert sum(group.size for group in groups) == len(found)

    async def test_dead_letters_are_read_in_pages(self, scene: Scene) -> None:
        """Those of one moment, too: by id, and none is missed or repeated."""
        await scene.publish(*[f"m{number}" for number in range(7)])
        for claim in await scene.claim():
            await scene.dead(claim)
        found: list[str] = []
        before: tuple[int, str] | None = None
        while page := await scene.store.dead_letters(limit=3, before=before):
            found += [letter.id for letter in page]
            before = page[-1].died_at, page[-1].id
        assert found == [f"m{number}" for number in range(6, -1, -1)]

    async def test_dead_letters_are_found_behind_thousands_of_others(self, scene: Scene) -> None:
        """A search goes on over what does not match."""
        await scene.dead(await scene.leased("first"), "TimeoutError: no")
        scene.clock.advance("1s")
        many = [f"m{number:04}" for number in range(2_500)]
        await scene.publish(*many)
        while claims := await scene.claim(1_000):
            await asyncio.gather(*[scene.dead(claim) for claim in claims])
        (letter,) = await scene.store.dead_letters(DeadLetterQuery(status=504), limit=10)
        assert letter.id == "first"
        sizes = {group.message: group.size for group in await scene.store.dead_letter_groups()}
        assert sizes == {"Boom: no": 2_500, "TimeoutError: no": 1}

    async def test_dead_letter_groups_are_the_largest_first(self, scene: Scene) -> None:
        """With count, first and last time, and the latest as an example."""
        for number in range(3):
            await scene.dead(await scene.leased(f"a{number}"), report(f"review {number}"))
            scene.clock.advance("1s")
        await scene.dead(await scene.leased("b"), report("other", "raise Other()"))
        first, second = await scene.store.dead_letter_groups()
        assert (first.size, first.first_at, first.last_at, first.example) == (
            3,
            scene.now - 3_000,
            scene.now - 1_000,
            "a2",
        )
        assert (first.type, first.where, first.message) == ("Boom", "reviews.py:41 in execute", "Boom: review 2")
        assert (second.size, second.example) == (1, "b")
        assert await scene.store.dead_letter_groups(limit=1) == [first]

    # The failure function

    async def test_settle_dead_calls_the_failure_function_once(self, scene: Scene) -> None:
        """The dead letter says that it runs, and what it has returned."""
        claim = await scene.leased("a", on_failure="other")
        await scene.dead(claim)
        assert (await scene.letter("a")).failure == FailureCall("in_progress", scene.now)
        scene.clock.advance("1s")
        (call,) = await scene.claim(destinations=("other",))
        await scene.done(call, result='{"told":true}')
        assert (await scene.letter("a")).failure == FailureCall("succeeded", scene.now, '{"told":true}')
        assert [letter.id for letter in await scene.store.dead_letters()] == ["a"]

    async def test_settle_dead_gives_the_failure_function_a_flow_key_of_its_destination(self, scene: Scene) -> None:
        """A rate limit of one failure function holds no other one."""
        await scene.dead(await scene.leased("a", on_failure="tell:a/b"))
        (call,) = await scene.claim(destinations=("tell:a/b",))
        await scene.store.settle(settlement.parked(call, scene.now + 60_000, "RateLimited"))
        await scene.dead(await scene.leased("b", on_failure="tell:a/b"))
        await scene.dead(await scene.leased("c", on_failure="other"))
        assert len(await scene.claim(destinations=("tell:a/b", "other"))) == 1
        assert {it.limits.key for it in await scene.store.flows()} >= {"tell.a.b", "other"}

    async def test_settle_dead_of_a_failure_function_is_kept_with_the_dead_letter(self, scene: Scene) -> None:
        """It becomes no dead letter itself, whether it fails or its workers are lost."""
        await scene.start(["u1"], on_failure="other")
        (item,) = await scene.items()
        await scene.dead(item)
        (call,) = await scene.claim(destinations=("other",))
        await scene.store.settle(settlement.retry(call, scene.now, "Boom: again"))
        (call,) = await scene.claim(destinations=("other",))
        await scene.dead(call, "Boom: at last")
        assert (await scene.letter(item.id)).failure == FailureCall("failed", scene.now, error="Boom: at last")
        await scene.completions()
        await scene.dead(await scene.leased("b", on_failure="other"))
        for _ in range(LOSS_LIMIT):
            await scene.claim(destinations=("other",))
            await scene.lose()
        failure = (await scene.letter("b")).failure
        assert failure is not None
        assert (failure.state, (failure.error or "")[:11]) == ("failed", "WorkerLost:")
        assert {letter.id for letter in await scene.store.dead_letters()} == {item.id, "b"}

    async def test_settle_of_the_failure_function_of_a_former_death_changes_nothing(self, scene: Scene) -> None:
        """The message was redriven meanwhile, and has died again."""
        claim = await scene.leased("a", on_failure="other")
        await scene.dead(claim)
        (late,) = await scene.claim(destinations=("other",))
        await scene.store.redrive("a")
        await scene.dead(await scene.claim_one("a"))
        await scene.done(late, result='"late"')
        assert (await scene.letter("a")).failure == FailureCall("in_progress", scene.now)
        (call,) = await scene.claim(destinations=("other",))
        assert call.id == ids.failure_id("a", claim.fence + 1)

    async def test_settle_cancelled_of_the_failure_function_fails_it(self, scene: Scene) -> None:
        """With a sentence about it."""
        claim = await scene.leased("a", on_failure="other")
        await scene.dead(claim)
        await scene.store.cancel_run(ids.failure_id("a", claim.fence))
        failure = (await scene.letter("a")).failure
        assert failure is not None
        assert failure.state == "failed"
        assert "cancelled" in (failure.error or "")

    async def test_settle_failed_keeps_no_dead_letter(self, scene: Scene) -> None:
        """A function that returned a failure has used up nothing."""
        claim = await scene.leased("a")
        await scene.store.settle(Settlement(claim.id, claim.fence, "failed", "null", "missing"))
        assert await scene.store.dead_letter("a") is None
