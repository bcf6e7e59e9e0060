"""`batchflow workers`: who works, without the module they work for."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchflow.cli import documents
from batchflow.cli.output import Output
from batchflow.cli.place import Json, Url, engine_at
from batchflow.cli.report import local, table
from batchflow.core.duration import show
from batchflow.core.worker import WorkerStatus

_COLUMNS = ("worker", "since", "heartbeat", "holds", "")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """List the workers of a store: since when each works, its last heartbeat, what it holds.

    A thread hangs where a plain function that was given up has not returned; others take its place, up to a bound. A
    worker that died is lost until its claims are taken back, at the latest when its lease of 30 seconds has ended.
    """

    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """List them."""
        async with engine_at(self.url) as engine:
            found = await engine.store.workers()
            now = engine.now()
        if self.as_json:
            Output().document({"workers": [documents.of_worker(it) for it in found]})
        else:
            _show(Output(), found, now)
        return 0


def _show(output: Output, found: Sequence[WorkerStatus], now: int) -> None:
    if not found:
        output.say("No workers")
        return
    table(output, _COLUMNS, [_row(it, now) for it in found], ["red" if it.lost else "" for it in found])


def _row(it: WorkerStatus, now: int) -> tuple[str, ...]:
    # The store's clock may be ahead of this machine's.
    ago = f"{show(max(0, now - it.seen_at) // 1000 * 1000)} ago" if it.seen_at else ""
    return (
        it.name,
        local(it.since or None),
        f"lost, {ago}".removesuffix(", ") if it.lost else ago,
        _held(it),
        ", ".join(f"{destination} {count:,}" for destination, count in sorted(it.holds.items())),
    )


def _held(it: WorkerStatus) -> str:
    held = f"{it.held:,} of {it.concurrency:,}" if it.concurrency else f"{it.held:,}"
    if not it.hanging:
        return held
    return f"{held}, {it.hanging:,} {'threads hang' if it.hanging > 1 else 'thread hangs'}"
