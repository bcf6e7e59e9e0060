"""The three batches. They differ in entity, data source and what is done with an item; the rest is batchflow's."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import structlog
from pydantic import BaseModel

from batchflow import (
    BatchSummary,
    BatchWorkflow,
    FailureBudget,
    FlowControl,
    ItemFailure,
    NonRetryable,
    Page,
    RateLimited,
    RetryAfter,
    Schedule,
)
from examples.welcome_placeholder.prompt import (
    EmbeddingModel,
    ModelBusy,
    ModelRefused,
    ModelUnavailable,
    Prompt,
    TextModel,
)
from examples.welcome_placeholder.repository import Agent, AgentRepository, Placeholders, User, UserRepository
from examples.welcome_placeholder.repository import AgentWelcome as WelcomeTexts

BUSY_SECONDS = 5.0
"""How long all requests wait where a busy model does not say."""

STANDARD_TEXTS = Placeholders(texts=("Ask me anything", "What is on your mind?", "Where shall we begin?"))
"""The placeholders of users for whom the model has written none."""

log = structlog.get_logger("welcome")


class Audience(BaseModel):
    """Whom a batch is for."""

    paid_only: bool = False


class WrittenPlaceholders(Placeholders):
    """A user's placeholders, and how many they are."""

    placeholders_count: int


class WelcomePlaceholder(BatchWorkflow[Audience, User, WrittenPlaceholders]):
    """Placeholders for the message box of every user who has none yet.

    `users` is called for the repository, and `model` for the model: a resource of the app, or a test's own.
    """

    name = "welcome-placeholder"
    entity = "user"
    execute_verb = "generate"
    walk_first = True
    schedule = Schedule("0 3 * * *", timezone="Europe/Berlin")
    # A model that refuses everybody costs few of them their texts: the batch pauses until somebody has looked.
    failure_budget = FailureBudget(max_rate=0.05)
    paginate_flow = FlowControl(parallelism=10, rate=50)
    execute_flow = FlowControl(parallelism=20, rate=150)

    def __init__(self, users: Callable[[], UserRepository], model: Callable[[], TextModel]) -> None:
        self._users = users
        self._model = model

    def fetch(self, params: Audience, cursor: str | None, limit: int) -> Page:
        return Page(*self._users().ids_after(cursor, limit, paid_only=params.paid_only))

    async def filter(self, params: Audience, ids: Sequence[str]) -> list[str]:
        # Not in the ledger, and not written by anything else either.
        needed = await self.unprocessed(ids)
        return await asyncio.to_thread(self._users().without_placeholders, needed)

    def load(self, user_id: str) -> User | None:
        return self._users().get(user_id)

    async def execute(self, user: User) -> WrittenPlaceholders:
        texts = await write(self._model(), Prompt.for_user(user))
        return WrittenPlaceholders(texts=tuple(texts), placeholders_count=len(texts))

    def save(self, user_id: str, result: WrittenPlaceholders) -> None:
        self._users().save_placeholders(user_id, Placeholders(texts=result.texts))

    def on_item_failure(self, failure: ItemFailure[Audience]) -> None:
        # No message box stays empty. `batchflow dlq resume` asks the model for this user again.
        self._users().save_placeholders(failure.item_id, STANDARD_TEXTS)

    def on_complete(self, summary: BatchSummary) -> None:
        log.info("[welcome-placeholder] Batch complete", users=summary.counts.succeeded, failed=summary.counts.failed)


class AgentWelcome(BatchWorkflow[Audience, Agent, WelcomeTexts]):
    """A welcome and open questions for every agent that has none yet."""

    name = "agent-welcome"
    entity = "agent"
    execute_verb = "generate"
    walk_first = True
    paginate_flow = FlowControl(parallelism=10, rate=50)
    execute_flow = FlowControl(parallelism=20, rate=150)

    def __init__(self, agents: Callable[[], AgentRepository], model: Callable[[], TextModel]) -> None:
        self._agents = agents
        self._model = model

    def fetch(self, params: Audience, cursor: str | None, limit: int) -> Page:
        return Page(*self._agents().ids_after(cursor, limit, paid_only=params.paid_only))

    async def filter(self, params: Audience, ids: Sequence[str]) -> list[str]:
        needed = await self.unprocessed(ids)
        return await asyncio.to_thread(self._agents().without_welcome, needed)

    def load(self, agent_id: str) -> Agent | None:
        return self._agents().get(agent_id)

    async def execute(self, agent: Agent) -> WelcomeTexts:
        message, *questions = await write(self._model(), Prompt.for_agent(agent))
        return WelcomeTexts(message=message, questions=tuple(questions))

    def save(self, agent_id: str, result: WelcomeTexts) -> None:
        self._agents().save_welcome(agent_id, result)

    def on_complete(self, summary: BatchSummary) -> None:
        log.info("[agent-welcome] Batch complete", agents=summary.counts.succeeded, failed=summary.counts.failed)


class UserInterests(BatchWorkflow[Audience, User, list[float]]):
    """A vector of every user's interests, to find people who share some.

    A model of vectors takes many texts with one request. The vectors are the results of the batch; `save` would give
    them to a database of vectors.
    """

    name = "user-interests"
    entity = "user"
    execute_verb = "embed"
    page_size = chunk_size = 100
    paginate_flow = FlowControl(parallelism=10, rate=50)
    # Items, not requests: five requests a second, and two of them at once.
    execute_flow = FlowControl(parallelism=200, rate=250)
    group_size = 50
    group_wait = "500ms"
    group_parallelism = 2

    def __init__(self, users: Callable[[], UserRepository], model: Callable[[], EmbeddingModel]) -> None:
        self._users = users
        self._model = model

    def fetch(self, params: Audience, cursor: str | None, limit: int) -> Page:
        return Page(*self._users().ids_after(cursor, limit, paid_only=params.paid_only))

    def load(self, user_id: str) -> User | None:
        return self._users().get(user_id)

    async def execute_many(self, users: Sequence[User]) -> list[list[float]]:
        with batch_errors():
            return await self._model().embed([", ".join(user.interests) for user in users])


async def write(model: TextModel, prompt: Prompt) -> list[str]:
    """Ask the model for texts; it raises as `batch_errors` says."""
    with batch_errors():
        return await model.write(prompt)


@contextmanager
def batch_errors() -> Generator[None]:
    """Say how a model's failures are to be taken.

    Raises:
        RateLimited: it is busy; every request waits, and none has used up an attempt.
        NonRetryable: it refuses; the same request would be refused again.
        RetryAfter: its server failed and says when to come back.
    """
    try:
        yield
    except ModelBusy as error:
        raise RateLimited(BUSY_SECONDS if error.retry_after is None else error.retry_after, str(error)) from error
    except ModelRefused as error:
        raise NonRetryable(str(error)) from error
    except ModelUnavailable as error:
        if error.retry_after is None:
            raise
        raise RetryAfter(error.retry_after, str(error)) from error
