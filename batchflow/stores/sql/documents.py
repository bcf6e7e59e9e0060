"""Documents: the named JSON texts of a QStash server's settings."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.posts import Document, DocumentKind
from batchflow.stores.sql.transaction import Tx


def put(tx: Tx, kind: DocumentKind, name: str, text: str, expected: int | None) -> Sequence[Any] | None:
    """Add a document or replace its text, if its version is the expected one."""
    known = find(tx, kind, name)
    if expected is not None and expected != (known.version if known else 0):
        return None
    tx.run("document_put", kind=kind, name=name, text=text, now=tx.now)
    return find(tx, kind, name)


def drop(tx: Tx, kind: DocumentKind, name: str) -> bool:
    """Remove a document."""
    return tx.run("document_drop", kind=kind, name=name) > 0


def find(tx: Tx, kind: DocumentKind, name: str) -> Document | None:
    """A document."""
    found = tx.json("document_read", kind=kind, name=name)
    return Document(*found[0]) if found else None


def listed(tx: Tx, kind: DocumentKind, prefix: str, after: str, limit: int) -> list[Document]:
    """Documents by name."""
    found = tx.json("document_list", kind=kind, prefix=prefix, after=after, limit=limit)
    return [Document(*row) for row in found]
