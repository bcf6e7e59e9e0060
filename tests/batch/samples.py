"""Workflows that the tests run."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from batchflow.batch.bound import Workflow, bind
from batchflow.batch.status import BatchSummary
from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.message import Message
from tests.batch.model import Model


class Audience(BaseModel):
    paid_only: bool = False


class User(BaseModel):
    id: str
    name: str


class Greeting(BaseModel):
    texts: list[str]


class Welcome(BatchWorkflow[Audience, User, Greeting]):
    """The whole of it: every hook is written."""

    entity = "user"
    execute_verb = "generate"

    def __init__(self, users: int = 0) -> None:
        self.ids = [f"u{number}" for number in range(users)]
        self.cached: set[str] = set()
        self.gone: set[str] = set()
        self.seen: list[tuple[str, bool]] = []
        self.saved: dict[str, Greeting] = {}
        self.summaries: list[BatchSummary] = []

    async def fetch(self, params: Audience, cursor: str | None, limit: int) -> Page:
        begin = int(cursor or 0)
        end = begin + limit
        return Page(ids=self.ids[begin:end], next_cursor=str(end) if end < len(self.ids) else None)

    async def filter(self, params: Audience, ids: Sequence[str]) -> list[str]:
        return [id for id in await self.unprocessed(ids) if id not in self.cached]

    async def load(self, user_id: str) -> User | None:
        return None if user_id in self.gone else User(id=user_id, name=user_id.upper())

    def execute(self, user: User) -> Greeting:
        self.seen.append((self.item_id, self.params.paid_only))
        return Greeting(texts=[f"Welcome, {user.name}!"])

    async def save(self, user_id: str, result: Greeting) -> None:
        self.saved[user_id] = result

    async def on_complete(self, summary: BatchSummary) -> None:
        self.summaries.append(summary)


class Plain(BatchWorkflow):
    """Ids and no result; the pages are given."""

    def __init__(self, pages: dict[str | None, Page]) -> None:
        self.pages = pages
        self.done: list[str] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return self.pages[cursor]

    async def execute(self, item_id: str) -> None:
        self.done.append(item_id)


def bound(model: Model, workflow: BatchWorkflow[Any, Any, Any]) -> Workflow[Any, Any]:
    """The workflow, bound to the model and served by it."""
    made = bind(workflow, model)
    model.serve(made)
    return made


def body(message: Message) -> dict[str, Any]:
    return json.loads(message.body)


def events(logs: list[dict[str, object]], level: str | None = None) -> list[object]:
    """The texts of what was logged."""
    return [line["event"] for line in logs if level in (None, line["log_level"])]
