"""Ledgers: which items count as processed. Pure values."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic_core import to_json


class Mark(NamedTuple):
    """An item that counts as processed; until when, in ms since the epoch (None: for ever)."""

    item: str
    expires_at: int | None = None


def ledger_name(workflow: str, scope: Mapping[str, object]) -> str:
    """The name of a workflow's ledger: its own name, followed by the JSON object of the scope where there is one.

    `scope` are those parameters of a batch that belong to it, by name, as values that JSON has; their order does not
    matter.
    """
    if not scope:
        return workflow
    return workflow + to_json(dict(sorted(scope.items()))).decode()


def workflow_of(ledger: str) -> str:
    """The workflow that a ledger belongs to; no workflow's name holds a brace."""
    return ledger.partition("{")[0]
