"""Durable state in one SQLite file."""

from batchflow.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
