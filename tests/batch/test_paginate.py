"""Layer 2: pages, chunks, limits, and what a source must not do."""

from collections.abc import Sequence
from typing import Any

import pytest

from batchflow.batch.workflow import NoParams, Page
from batchflow.core.ids import chunk_id, page_id
from batchflow.core.run import Step
from batchflow.errors import NonRetryable
from tests.batch.model import Model
from tests.batch.samples import Plain, Welcome, body, bound, events


async def test_a_page_is_cut_into_chunks(model: Model, logs: list[dict[str, object]]) -> None:
    """Of more than `chunk_size` ids the first chunk starts at once, the others go on with ids and first number."""
    batch = await bound(model, Welcome(users=70)).trigger()
    await model.drive()
    page = page_id(batch.id, 0)
    assert model.results[page] == '{"success":true,"processedItems":50,"skippedItems":0,"nextCursor":"50"}'
    chunks = [message for message in model.published if message.id.startswith(f"{page}.c")]
    assert [message.id for message in chunks] == [chunk_id(batch.id, 0, number) for number in (1, 2)]
    assert [body(message)["first"] for message in chunks] == [20, 40]
    assert body(chunks[1])["userIds"] == [f"u{number}" for number in range(40, 50)]
    assert model.results[chunks[0].id] == '{"success":true,"processedItems":20}'
    following = next(message for message in model.published if message.id == page_id(batch.id, 1))
    assert body(following)["cursor"] == "50"
    assert [step.name for step in model.journals[page]] == ["welcome:get-batch"]
    wanted = [
        "[welcome:paginate] Got batch",
        "[welcome:paginate] After filtering",
        "[welcome:paginate] Fanout mode",
        "[welcome:paginate] welcome:fanout:1/3",
        "[welcome:paginate] welcome:fanout:2/3",
        "[welcome:paginate] welcome:fanout:3/3",
        *(f"[welcome:paginate] welcome:execute:u{number}" for number in range(20)),
        "[welcome:paginate] Scheduling next page",
        "[welcome:paginate] welcome:next-page",
        "[welcome:paginate] Processing specific itemIds",
        "[welcome:paginate] welcome:execute:u20",
    ]
    lines = [text for text in events(logs) if str(text).startswith("[welcome:paginate]")]
    assert lines[: len(wanted)] == wanted
    assert "[welcome:paginate] No more pages" in lines


class Unlimited(Plain):
    """Nothing paces its pages and chunks; the default filter."""

    paginate_flow = None


def pages_of(*sizes: int) -> dict[str | None, Page]:
    """Pages of so many ids each."""
    ids = (f"u{number}" for number in range(sum(sizes)))
    last = len(sizes) - 1
    return {
        None if place == 0 else str(place): Page(
            [next(ids) for _ in range(size)], str(place + 1) if place < last else None
        )
        for place, size in enumerate(sizes)
    }


async def test_chunks_that_nothing_paces_start_with_their_page(model: Model, logs: list[dict[str, object]]) -> None:
    """They are counted and told of as ever, and are no messages."""
    batch = await bound(model, Unlimited(pages_of(50))).trigger()
    await model.drive()
    assert not [message.id for message in model.published if ".c" in message.id]
    assert [item.number for item in model.jobs[batch.id].items.values()] == list(range(50))
    assert model.jobs[batch.id].batch.chunks == 3
    assert "[unlimited:paginate] unlimited:fanout:3/3" in events(logs)


async def test_a_large_page_does_not_start_as_a_whole(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction has so many items and no more."""
    monkeypatch.setattr("batchflow.batch.paginate.MAX_STARTED_AT_ONCE", 49)
    batch = await bound(model, Unlimited(pages_of(50))).trigger()
    await model.drive()
    assert len([message.id for message in model.published if ".c" in message.id]) == 2
    assert model.counts(batch.id).succeeded == 50


async def test_a_page_that_only_the_ledger_filters_is_one_write(model: Model) -> None:
    """Neither its fetch nor its filter is recorded before its items start; the next page goes with the second fetch."""
    batch = await bound(model, Plain(pages_of(1, 1, 1, 1))).trigger()
    await model.drive()
    recorded = [[step.name for step in model.journals[page_id(batch.id, place)]] for place in range(4)]
    assert recorded == [[], ["plain:get-batch"], ["plain:get-batch"], ["plain:get-batch"]]
    assert [message.id for message in model.published if message.destination.endswith("paginate-items")] == [
        page_id(batch.id, place) for place in range(4)
    ]
    assert (model.counts(batch.id).succeeded, model.jobs[batch.id].batch.pages) == (4, 4)


class Failing(Unlimited):
    """Its filter is its own, and it fails."""

    async def filter(self, params: NoParams, ids: Sequence[str]) -> list[str]:
        raise NonRetryable("the filter is broken")


async def test_a_walk_waits_for_a_filter_that_may_fail(model: Model) -> None:
    """It fails on one page, not on page after page."""
    batch = await bound(model, Failing(pages_of(1, 1, 1))).trigger()
    await model.drive()
    assert list(model.dead) == [page_id(batch.id, 0)]


async def test_a_page_recorded_without_its_successor_publishes_it(model: Model) -> None:
    """As by a program of before, or by a class that had a filter then: what is recorded says so itself."""
    plain = Plain(pages_of(1, 1, 1))
    workflow = bound(model, plain)
    batch = await workflow.trigger()
    second = page_id(batch.id, 1)
    model.journals[second] = (
        Step(1, "plain:get-batch", "run", "done", 1, '{"ids":["u1"],"next_cursor":"2","named":1}', None, 0, 0, 1),
    )
    await model.drive()
    assert model.counts(batch.id).succeeded == 3


async def test_the_log_lines_carry_the_numbers(model: Model, logs: list[dict[str, object]]) -> None:
    """Sizes, cursors and skips are key-values, not part of the text."""
    welcome = Welcome(users=70)
    welcome.cached = {"u1"}
    await bound(model, welcome).trigger()
    await model.drive()
    by_text: dict[object, dict[str, object]] = {}
    for line in logs:
        by_text.setdefault(line["event"], line)
    got, filtered, fanout = (
        by_text[f"[welcome:paginate] {text}"] for text in ("Got batch", "After filtering", "Fanout mode")
    )
    assert (got["size"], got["next_cursor"]) == (50, "50")
    assert (filtered["need"], filtered["skipped"]) == (49, 1)
    assert (fanout["chunks"], fanout["chunk_size"], fanout["total"]) == (3, 20, 49)


async def test_a_small_page_starts_its_items_itself(model: Model) -> None:
    """Numbers go on from page to page: page times page size, plus the place among those to process."""
    pages = {None: Page(["a", "b"], "1"), "1": Page(["c"], "2"), "2": Page([])}
    batch = await bound(model, Plain(pages)).trigger()
    await model.drive()
    assert [(item.number, item.id) for item in model.jobs[batch.id].items.values()] == [(0, "a"), (1, "b"), (50, "c")]
    assert model.results[page_id(batch.id, 2)] == '{"success":true,"message":"Pagination complete"}'


async def test_an_empty_page_in_the_middle_loses_nothing(model: Model) -> None:
    """An empty page that names a next cursor does not end the walk."""
    plain = Plain({None: Page([], "1"), "1": Page(["a"])})
    batch = await bound(model, plain).trigger()
    await model.drive()
    assert plain.done == ["a"]
    assert model.results[page_id(batch.id, 0)] == (
        '{"success":true,"processedItems":0,"skippedItems":0,"nextCursor":"1"}'
    )


async def test_duplicates_within_a_page_are_counted(model: Model) -> None:
    """Every mention is eligible, and runs once."""
    plain = Plain({None: Page(["a", "b", "a"])})
    batch = await bound(model, plain).trigger()
    await model.drive()
    counts = model.counts(batch.id)
    assert (counts.eligible, counts.succeeded, counts.duplicates) == (3, 2, 1)


async def test_force_skips_the_filter(model: Model) -> None:
    """Processed items run again."""
    plain = Plain({None: Page(["a", "b"])})
    workflow = bound(model, plain)
    model.marked["plain"] = {"a", "b"}
    again = await workflow.trigger()
    await model.drive()
    forced = await workflow.trigger(force=True)
    await model.drive()
    assert model.counts(again.id).already_processed == 2
    assert model.counts(forced.id).succeeded == 2
    assert model.journals[page_id(forced.id, 0)] == ()


async def test_a_limit_stops_the_walk(model: Model) -> None:
    """So many are started; what is left on the page is left out, and no page follows."""
    plain = Plain({None: Page(["a", "b"], "1"), "1": Page(["c", "d", "e"], "2")})
    batch = await bound(model, plain).trigger(limit=3)
    await model.drive()
    assert plain.done == ["a", "b", "c"]
    counts = model.counts(batch.id)
    assert (counts.eligible, counts.succeeded, counts.left_out) == (5, 3, 2)
    assert (await batch.wait()).state == "completed"


async def test_a_limit_reached_with_a_page_needs_no_other(model: Model) -> None:
    """The walk ends with the page that fills the limit."""
    plain = Plain({None: Page(["a", "b"], "1")})
    await bound(model, plain).trigger(limit=2)
    await model.drive()
    assert plain.done == ["a", "b"]


MANY = [f"i{number}" for number in range(51)]
page: Any = Page
ID_DESCRIPTION = "an id is a non-empty string, an int or a UUID"
CIRCLE = (
    "Plain.fetch came back to the cursor '{}', so its pages would never end; next_cursor has to move on, and be None "
    "at the end"
)


@pytest.mark.parametrize(
    ("pages", "sentence"),
    [
        ({None: Page(MANY)}, "Plain.fetch returned 51 ids where at most 50 were asked for"),
        ({None: Page(["a", ""])}, f"Plain.fetch returned the id ''; {ID_DESCRIPTION}"),
        ({None: Page(["a", "\udce9"])}, "Plain.fetch returned the id '\\udce9', which has no form in UTF-8"),
        ({None: page([True])}, f"Plain.fetch returned the id True; {ID_DESCRIPTION}"),
        ({None: page([1.5])}, f"Plain.fetch returned the id 1.5; {ID_DESCRIPTION}"),
        ({None: page([b"a"])}, f"Plain.fetch returned the id b'a'; {ID_DESCRIPTION}"),
        ({None: page([None])}, f"Plain.fetch returned the id None; {ID_DESCRIPTION}"),
        ({None: page()}, "Plain.fetch returned a Page of neither ids nor items; write the one or the other"),
        (
            {None: page(ids=["a"], items={"a": "a"})},
            "Plain.fetch returned a Page of ids and items; write the one or the other",
        ),
        (
            {None: page(items=["a"])},
            "Plain.fetch returned a list as the items of its Page; write a mapping of ids to items",
        ),
        ({None: page(items={None: "a"})}, f"Plain.fetch returned the id None; {ID_DESCRIPTION}"),
        ({None: Page("abc")}, "Plain.fetch returned a str as the ids of its Page; write a list of ids"),
        ({None: page(["a"], 5)}, "Plain.fetch returned next_cursor=5; write a string, or None at the end"),
        ({None: ["a"]}, "Plain.fetch returned a list; write: return Page(ids=[…], next_cursor=…)"),
        ({None: None}, "Plain.fetch returned None; write: return Page(ids=[…], next_cursor=…)"),
        ({None: Page(["a"], "1"), "1": Page(["b"], "1")}, CIRCLE.format("1")),
        ({None: Page(["a"], "1"), "1": Page(["b"], "2"), "2": Page(["c"], "1")}, CIRCLE.format("1")),
    ],
)
async def test_a_walk_that_cannot_go_on_ends_with_a_sentence(
    model: Model, pages: dict[str | None, Page], sentence: str, logs: list[dict[str, object]]
) -> None:
    """It is not tried again, and the batch says why."""
    batch = await bound(model, Plain(pages)).trigger()
    await model.drive()
    summary = await batch.wait()
    assert summary.state == "failed"
    assert sentence in (summary.error or "")
    assert any(
        str(text).startswith("[plain:paginate:error] ") and sentence in str(text) for text in events(logs, "error")
    )


class Filtering(Plain):
    async def filter(self, params: object, ids: object) -> list[str]:
        return ["z"]


async def test_a_filter_returns_some_of_what_it_was_given(model: Model) -> None:
    """An id from elsewhere has no place in the page."""
    batch = await bound(model, Filtering({None: Page(["a"])})).trigger()
    await model.drive()
    sentence = "Filtering.filter returned 'z', which is not among the ids it was given"
    assert sentence in ((await batch.wait()).error or "")
