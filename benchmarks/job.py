"""The job that is measured: three durable steps per item, models in and out, nothing else."""

from pydantic import BaseModel

from batchflow import BatchSummary, BatchWorkflow, NoParams, Page


class User(BaseModel):
    """The result of `load`."""

    id: str
    name: str
    visits: int


class Greeting(BaseModel):
    """The result of `execute`."""

    text: str
    length: int


class Greet(BatchWorkflow[NoParams, User, Greeting]):
    """Items `user-0000000` …, pages and chunks as they are by default, no limits."""

    name = "greet"
    entity = "user"
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self, items: int) -> None:
        self._items = items

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = min(start + limit, self._items)
        return Page([f"user-{number:07d}" for number in range(start, end)], str(end) if end < self._items else None)

    async def load(self, user_id: str) -> User:
        return User(id=user_id, name=f"User {user_id}", visits=3)

    async def execute(self, user: User) -> Greeting:
        text = f"Welcome back, {user.name}, for the {user.visits}th time"
        return Greeting(text=text, length=len(text))

    async def save(self, user_id: str, greeting: Greeting) -> None:
        return None

    async def on_complete(self, summary: BatchSummary) -> None:
        return None


class GreetLarge(Greet):
    """The same in pages and chunks of a thousand."""

    page_size = chunk_size = 1_000
