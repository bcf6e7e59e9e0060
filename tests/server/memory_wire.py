"""The documents of a server in a dict, until every store keeps them."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.posts import Document, DocumentKind
from batchflow.stores.sqlite import SqliteStore


async def _missing(self: object, *args: Any, **options: Any) -> Any:
    raise NotImplementedError


class MemoryWireStore(SqliteStore):
    """A SQLite store whose documents are kept by this object."""

    post = cancel_posts = open_posts = log = log_entries = created_entries = _missing
    put_queue = queue = queues = drop_queue = _missing

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: dict[tuple[str, str], Document] = {}

    async def put_document(
        self, kind: DocumentKind, name: str, text: str, *, expected: int | None = None
    ) -> Document | None:
        """See the protocol."""
        old = self.kept.get((kind, name))
        version = old.version if old else 0
        if expected not in (None, version):
            return None
        now = self._clock.now()
        self.kept[kind, name] = Document(name, text, version + 1, old.created_at if old else now, now)
        return self.kept[kind, name]

    async def document(self, kind: DocumentKind, name: str) -> Document | None:
        """See the protocol."""
        return self.kept.get((kind, name))

    async def documents(
        self, kind: DocumentKind, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Document]:
        """See the protocol."""
        names = sorted(it for found, it in self.kept if found == kind and it.startswith(prefix) and it > after)
        return [self.kept[kind, it] for it in names[:limit]]

    async def drop_document(self, kind: DocumentKind, name: str) -> bool:
        """See the protocol."""
        return self.kept.pop((kind, name), None) is not None
