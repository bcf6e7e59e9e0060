"""What may be asked of a model, what it answers, and how it fails; the models themselves are in `model`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from examples.welcome_placeholder.repository import Agent, User

FEWEST_TEXTS, MOST_TEXTS = 3, 5


class ModelError(Exception):
    """The model gave no usable texts; the subclasses say whether asking again can help.

    `retry_after` is how many seconds the server asked to wait, or None where it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelBusy(ModelError):
    """Too many requests (429): every request waits, not only this one."""


class ModelUnavailable(ModelError):
    """The server failed (5xx), timed out or was not reached: a later attempt may pass."""


class ModelRefused(ModelError):
    """The request or its key was refused (any other status): the same request will be refused again."""


class UnusableAnswer(ModelError):
    """The model answered, but not with a list of texts: another attempt may do better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is to be written, and the facts it is written from."""

    kind: Literal["placeholders", "welcome"]
    name: str
    locale: str
    topics: tuple[str, ...]
    purpose: str = ""

    def __post_init__(self) -> None:
        if not self.topics:
            raise ValueError(f"nothing to write about for '{self.name}'; give at least one topic")

    @classmethod
    def for_user(cls, user: User) -> Self:
        """Ask for placeholders about the user's interests."""
        return cls(kind="placeholders", name=user.name, locale=user.locale, topics=user.interests)

    @classmethod
    def for_agent(cls, agent: Agent) -> Self:
        """Ask for an agent's welcome, which comes first, and its open questions."""
        topics = agent.topics
        return cls(kind="welcome", name=agent.name, locale=agent.locale, topics=topics, purpose=agent.purpose)


class EmbeddingModel(Protocol):
    """Turns texts into vectors, many of them with one request."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in their order; or raise a `ModelError`."""
        ...


class TextModel(Protocol):
    """Writes a few short texts; any number of tasks may ask at once."""

    async def write(self, prompt: Prompt) -> list[str]:
        """Return 3 to 5 texts, none of them blank, in the order they are to be shown; or raise a `ModelError`."""
        ...

    async def aclose(self) -> None:
        """Give back what the model holds; nothing may be asked of it after that."""
        ...


class LanguageModel(TextModel, EmbeddingModel, Protocol):
    """Does both."""
