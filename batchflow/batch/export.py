"""The export of a batch: its items as JSON lines or CSV, and a manifest with counts and a hash of that file."""

import hashlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from batchflow.batch.answers import result_text
from batchflow.batch.rollup import latest_items, read_retries
from batchflow.core.batch import Batch, BatchState, Item, ItemState
from batchflow.core.report import headline, one_line
from batchflow.core.secrets import masked_text, masked_value
from batchflow.core.store import Reads
from batchflow.errors import InputError
from batchflow.serve.validation import format_value

ExportFormat: TypeAlias = Literal["jsonl", "csv"]

FIELDS = ("key", "number", "outcome", "result", "error", "attempts", "endedAt")
"""The fields of a line. `key` is the id of the item, `outcome` its state."""

MANIFEST = "manifest.json"
"""The name of the manifest, beside the file of items."""

_ITEMS_PER_READ = 1_000


class Manifest(BaseModel):
    """The manifest of an export. Its JSON names are camelCase.

    `rows` are the lines of `file` without the header of CSV, `outcomes` their number by outcome, and `sha256` is the
    hash of the file, which has `size` bytes. Without `state` they are all items that were started. Unless `is_final`,
    items may have changed since. With `retries`, the ids of the batches that were linked to it, each item is there as
    its latest run has left it; `counts` are those of the batch alone.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True, defer_build=True
    )

    batch_id: str
    workflow: str
    label: str | None
    batch_state: BatchState
    is_final: bool
    params: Any
    counts: Mapping[str, int]
    created_at: datetime
    ended_at: datetime | None
    format: ExportFormat
    state: ItemState | None
    file: str
    rows: int
    outcomes: Mapping[str, int]
    size: int
    sha256: str
    retries: tuple[str, ...] = ()


class Export:
    """One export: `lines` yields the file piece by piece, and `manifest` describes what it has yielded.

    Secret values are masked. An ended batch gives the same bytes each time.
    """

    def __init__(self, store: Reads, batch: Batch, format: ExportFormat, state: ItemState | None = None) -> None:
        self._store = store
        self._batch = batch
        self._format: ExportFormat = format
        self._state: ItemState | None = state
        self._hash = hashlib.sha256()
        self._size = 0
        self._outcomes: dict[str, int] = {}
        self._retries: Sequence[Batch] = ()

    @property
    def file_name(self) -> str:
        """The name of the file of items."""
        return f"items.{self._format}"

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the file; only one page of items is in memory at a time."""
        if self._format == "csv":
            yield self._count(_csv_line(FIELDS))
        self._retries = await read_retries(self._store, self._batch)
        async for items in latest_items(self._store, self._batch, self._retries, self._state, _ITEMS_PER_READ):
            for item in items:
                self._outcomes[item.state] = self._outcomes.get(item.state, 0) + 1
            yield self._count(b"".join(map(self._line, items)))

    def manifest(self) -> Manifest:
        """Describe what `lines` has yielded."""
        batch = self._batch
        return Manifest(
            batch_id=batch.id,
            workflow=batch.workflow,
            label=batch.label,
            batch_state=batch.state,
            is_final=all(it.items_ended for it in (batch, *self._retries)),
            params=masked_value(batch.params),
            counts={to_camel(name): count for name, count in batch.counts._asdict().items()},
            created_at=_time(batch.created_at),
            ended_at=None if batch.ended_at is None else _time(batch.ended_at),
            format=self._format,
            state=self._state,
            file=self.file_name,
            rows=sum(self._outcomes.values()),
            outcomes=dict(sorted(self._outcomes.items())),
            size=self._size,
            sha256=self._hash.hexdigest(),
            retries=tuple(it.id for it in self._retries),
        )

    async def write(self, folder: Path) -> Manifest:
        """Write the file and its manifest into a folder, which is made if it does not exist.

        Each has its name only once it is complete.

        Raises:
            InputError: there is an export in the folder already, or it cannot be written.
        """
        target = folder / self.file_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in (target, folder / MANIFEST):
                if path.exists():
                    raise InputError(f"'{path}' exists already; remove it, or name another folder", field="folder")
            part = target.with_name(f"{target.name}.part")
            with part.open("wb") as out:
                async for piece in self.lines():
                    out.write(piece)
            part.replace(target)
            manifest = self.manifest()
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"'{folder}' cannot be written: {error.strerror}", field="folder") from error
        return manifest

    def _count(self, piece: bytes) -> bytes:
        self._hash.update(piece)
        self._size += len(piece)
        return piece

    def _line(self, item: Item) -> bytes:
        error = None if item.error is None else one_line(headline(item.error))
        ended = None if item.ended_at is None else _time(item.ended_at).isoformat(timespec="milliseconds")
        about = (item.id, item.number, item.state)
        if self._format == "csv":
            return _csv_line((*about, masked_text(result_text(item) or ""), error, item.attempts, ended))
        values = (*about, masked_value(result_text(item)), error, item.attempts, ended)
        return to_json(dict(zip(FIELDS, values, strict=True)), inf_nan_mode="constants") + b"\n"


def check_format(format: object) -> ExportFormat:
    """Return the format of an export.

    Raises:
        InputError: there is no such format.
    """
    for known in get_args(ExportFormat):
        if format == known:
            return known
    raise InputError(option="format", got=format_value(format), want=f"write {' or '.join(get_args(ExportFormat))}")


def _csv_line(values: tuple[object, ...]) -> bytes:
    import csv  # not needed by most programs

    # The form of RFC 4180.
    out = io.StringIO(newline="")
    csv.writer(out).writerow(values)
    return out.getvalue().encode()


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
