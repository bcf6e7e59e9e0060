"""The costs of an item, counted instead of timed: transactions, statements, rows and calls of the standard job."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchflow import Batchflow, BatchWorkflow, NoParams, Page
from batchflow.engine.clock import SystemClock
from batchflow.stores.sqlite import SqliteStore
from tests.stores.redis_server import served

ITEMS = 2_000


class Standard(BatchWorkflow[NoParams, str, str]):
    """Three durable steps per item, pages and chunks as they are by default, nothing limited."""

    name = "standard"
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = min(start + limit, ITEMS)
        return Page([f"id-{number:05d}" for number in range(start, end)], str(end) if end < ITEMS else None)

    async def load(self, item_id: str) -> str:
        return item_id

    async def execute(self, item: str) -> str:
        return item

    async def save(self, item_id: str, result: str) -> None:
        return None


class Large(Standard):
    """The same in pages of a thousand."""

    name = "large"
    page_size = chunk_size = 1_000


async def in_writer(store: SqliteStore, act: Callable[[Any], None]) -> None:
    """Do something with the connection that writes, in the thread that does: in any other it may be in use."""
    await store._enqueue("read", act, ())  # pyright: ignore[reportPrivateUsage]


async def carry_out(flow: Batchflow, kind: type[Standard]) -> None:
    """One batch from its trigger to its end."""
    summary = await (await flow.add(kind()).trigger()).wait(check=True)
    assert summary.counts.succeeded == ITEMS


class Counted:
    """The number of statements of each kind, by first word."""

    def __init__(self) -> None:
        self.by_word: Counter[str] = Counter()

    def __call__(self, statement: str) -> None:
        self.by_word[statement.split(None, 1)[0].upper()] += 1

    @property
    def transactions(self) -> int:
        """Those that write."""
        return self.by_word["COMMIT"]

    @property
    def statements(self) -> int:
        """All between a transaction's begin and its end, those of triggers among them."""
        return sum(self.by_word.values()) - self.by_word["BEGIN"] - self.by_word["COMMIT"]


async def counted(folder: Path, kind: type[Standard]) -> Counted:
    """The batch on SQLite, with what the writer was asked for."""
    store = SqliteStore(str(folder / f"{kind.name}.db"), clock=SystemClock())
    flow, counted = Batchflow(store), Counted()
    async with flow:
        await in_writer(store, lambda tx: tx.connection.set_trace_callback(counted))
        await carry_out(flow, kind)
    return counted


async def test_a_page_of_the_default_size_is_about_one_transaction(tmp_path: Path) -> None:
    """And not one for its fetch, one for its filter, one for each of its chunks."""
    pages = ITEMS / Standard.page_size
    assert (await counted(tmp_path, Standard)).transactions <= 1.75 * pages


async def test_an_item_takes_about_a_statement(tmp_path: Path) -> None:
    """Of thirteen rows for each item; a statement takes those of many items."""
    assert (await counted(tmp_path, Standard)).statements <= 1.5 * ITEMS
    assert (await counted(tmp_path, Large)).statements <= 0.5 * ITEMS


async def test_an_item_on_redis_takes_a_small_part_of_a_call(tmp_path: Path) -> None:
    """Those that write and those that read, of a server that nobody else asks; and five commands of their scripts."""
    with served(tmp_path) as server, server.client() as client:
        async with (flow := Batchflow(server.url)):
            client.config_resetstat()
            await carry_out(flow, Standard)
            told: dict[str, Any] = client.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): about["calls"] for name, about in told.items()}
    calls = sum(counts.get(name, 0) for name in ("evalsha", "fcall", "fcall_ro"))
    assert calls <= 0.08 * ITEMS
    assert sum(counts.values()) <= 5.5 * ITEMS
