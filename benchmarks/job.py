"""The job that is measured: three durable steps per item, models in and out, nothing else."""

from pydantic import BaseModel

from batchflow import BatchSummary, BatchWorkflow, FlowControl, NoParams, Page


class User(BaseModel):
    """The result of `load`."""

    id: str
    name: str
    visits: int


class Greeting(BaseModel):
    """The result of `execute`."""

    text: str
    length: int


class Users(BatchWorkflow[NoParams, User, Greeting], abstract=True):
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

    async def save(self, user_id: str, greeting: Greeting) -> None:
        return None

    async def on_complete(self, summary: BatchSummary) -> None:
        return None


class Greet(Users):
    """One call for each item."""

    async def execute(self, user: User) -> Greeting:
        return greeting_of(user)


class GreetLarge(Greet):
    """The same in pages and chunks of a thousand."""

    page_size = chunk_size = 1_000


class GreetTenants(GreetLarge):
    """One at a time of each of so many tenants, in pages of a thousand; at most a hundred in all."""

    execute_flow = FlowControl(parallelism=100)
    tenants = 2_000

    def item_flow(self, params: NoParams, user_id: str) -> FlowControl | None:
        return FlowControl(key=f"tenant-{int(user_id.removeprefix('user-')) % self.tenants}", parallelism=1)


class GreetHundred(GreetLarge):
    """The same without tenants."""

    execute_flow = FlowControl(parallelism=100)


class GreetMany(Users):
    """One call for up to fifty items."""

    group_size = 50
    group_wait = "200ms"

    def __init__(self, items: int) -> None:
        super().__init__(items)
        self.calls = 0

    async def execute_many(self, users: list[User]) -> list[Greeting]:
        self.calls += 1
        return [greeting_of(user) for user in users]


def greeting_of(user: User) -> Greeting:
    """Do the work of one item."""
    text = f"Welcome back, {user.name}, for the {user.visits}th time"
    return Greeting(text=text, length=len(text))
