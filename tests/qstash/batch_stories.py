"""Random batches: what their items do, and what is done to them; and how they are played."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Literal, NamedTuple, TypeAlias

from batchflow import (
    BatchSummary,
    BatchWorkflow,
    FlowControl,
    ItemFailure,
    NonRetryable,
    NoParams,
    Page,
    RateLimited,
    RetryPolicy,
    WorkflowContext,
)
from batchflow.testing import ManualClock

Kind: TypeAlias = Literal["plain", "flaky", "down", "closed", "limited", "sleepy", "told", "untold"]
Command: TypeAlias = Literal["", "pause", "cancel", "again"]

_KINDS: Sequence[Kind] = ("plain", "plain", "plain", "flaky", "down", "closed", "limited", "sleepy", "told", "untold")


class ItemStory(NamedTuple):
    """What an item does: it is flaky so many times, is limited so many times, sleeps so many seconds."""

    kind: Kind
    times: int

    @property
    def succeeds(self) -> bool:
        """Whether it does, however often it is disturbed."""
        return self.kind not in ("down", "closed")


class BatchStory(NamedTuple):
    """A batch, and what is done to it while it goes on: `again` is a second trigger of the same items."""

    items: tuple[ItemStory, ...]
    page_size: int
    chunk_size: int
    parallelism: int | None
    command: Command


def drawn(seed: object, count: int) -> list[BatchStory]:
    """So many random batches; the same for the same seed."""
    random = Random(f"batches {seed}")
    return [_drawn(random) for _ in range(count)]


def _drawn(random: Random) -> BatchStory:
    size = random.choice([0, 1, 3, 6, 10])
    return BatchStory(
        tuple(ItemStory(random.choice(_KINDS), random.choice([1, 1, 2])) for _ in range(size)),
        page_size=random.choice([1, 3, 10]),
        chunk_size=random.choice([1, 2, 5]),
        parallelism=random.choice([None, 1, 3]),
        command=random.choice(["", "", "pause", "cancel", "again"]),
    )


class World:
    """What has been seen of batches, over all lives of who executes them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.recorded: defaultdict[str, set[str]] = defaultdict(set)
        """The recorded steps of runs."""
        self.ended: defaultdict[str, list[str]] = defaultdict(list)
        """The ends of messages, by id."""
        self.executed: Counter[tuple[str, str]] = Counter()
        self.again: list[tuple[str, str]] = []
        """The steps that were executed after they had been recorded."""

    async def play(self, ctx: WorkflowContext[NoParams], story: ItemStory) -> str:
        """Executes the story of an item, in its run."""
        run, known = ctx.run_id, frozenset(self.recorded[ctx.run_id])

        async def step(name: str) -> str:
            if name in known:
                self.again.append((run, name))
            self.executed[run, name] += 1
            self.clock.advance(timedelta(milliseconds=1))
            return name

        async def work() -> str:
            await step("work")
            is_early = self.executed[run, "work"] <= story.times
            match story.kind:
                case "closed":
                    raise NonRetryable("closed")
                case "down":
                    raise ConnectionError("down")
                case "flaky" if is_early:
                    raise ConnectionError("down for a while")
                case "limited" if is_early:
                    raise RateLimited(7, "too many")
                case _:
                    return story.kind

        await ctx.run("begin", step, "begin")
        match story.kind:
            case "sleepy":
                await ctx.sleep("sleep", 20 * story.times)
            case "told" | "untold":
                if story.kind == "told":
                    await ctx.notify("tell", run, "come", run_id=run)
                waited = await ctx.wait_for_event(
                    "wait", run, timeout="7s" if story.kind == "untold" else "400d", data=str
                )
                assert waited.timed_out == (story.kind == "untold")
            case _:
                pass
        found = await ctx.run("work", work)
        await ctx.run("end", step, "end")
        return found


def workflow_of(story: BatchStory, number: int, world: World) -> BatchWorkflow[NoParams, str, str]:
    """The workflow of a batch."""

    class Told(BatchWorkflow[NoParams, str, str]):
        name = f"story-{number}"
        entity = "item"
        page_size = story.page_size
        chunk_size = story.chunk_size
        entry_flow = paginate_flow = None
        execute_flow = None if story.parallelism is None else FlowControl(parallelism=story.parallelism)
        retry = RetryPolicy(retries=2, first="1s", factor=2)

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            first = int(cursor or 0)
            last = min(first + limit, len(story.items))
            ids = [str(place) for place in range(first, last)]
            return Page(ids, next_cursor=str(last) if last < len(story.items) else None)

        def load(self, id: str) -> str:
            return id

        async def process(self, ctx: WorkflowContext[NoParams], item: str, /) -> str:
            return await world.play(ctx, story.items[int(item)])

        async def on_item_failure(self, failure: ItemFailure[NoParams], /) -> None:
            world.executed[failure.run_id, "failure"] += 1

        async def on_complete(self, summary: BatchSummary, /) -> None:
            world.executed[summary.id, "complete"] += 1

    return Told()
