"""Three batches over one database: placeholders and vectors for users, welcomes for their AI agents.

    batchflow run examples.welcome_placeholder:flow welcome-placeholder --dry-run
    batchflow run examples.welcome_placeholder:flow welcome-placeholder -p paidOnly=true
    batchflow run examples.welcome_placeholder:flow user-interests

The users and agents are made at the first use, in the file that WELCOME_DB names (welcome.db in the current folder).
"""

import os
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path

from batchflow import Batchflow
from examples.welcome_placeholder.data import create
from examples.welcome_placeholder.model import model_from_env
from examples.welcome_placeholder.prompt import LanguageModel
from examples.welcome_placeholder.repository import AgentRepository, UserRepository
from examples.welcome_placeholder.workflows import AgentWelcome, UserInterests, WelcomePlaceholder

__all__ = ["database", "flow", "users"]


@cache
def database() -> Path:
    """The example's database, made when it is first asked for."""
    path = Path(os.environ.get("WELCOME_DB", "welcome.db"))
    create(path)
    return path


def users() -> UserRepository:
    """The users in it."""
    return UserRepository(database())


def agents() -> AgentRepository:
    """Their agents."""
    return AgentRepository(database())


flow = Batchflow()


@flow.resource
async def language_model() -> AsyncGenerator[LanguageModel]:
    """The model that writes texts and makes vectors; every process that works has its own connections to it."""
    model = model_from_env()
    try:
        yield model
    finally:
        await model.aclose()


flow.add(WelcomePlaceholder(users, language_model))
flow.add(AgentWelcome(agents, language_model))
flow.add(UserInterests(users, language_model))
