"""What the batches read and write: users, agents, and the texts made for them."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from examples.welcome_placeholder.data import connect


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class User(_Value):
    """A person to be greeted; `locale` is a language tag such as "de-DE"."""

    id: str
    name: str
    locale: str
    interests: tuple[str, ...] = Field(min_length=1)


class Agent(_Value):
    """An AI agent that a user owns; it speaks its owner's language, `locale`."""

    id: str
    owner_id: str
    name: str
    purpose: str
    topics: tuple[str, ...] = Field(min_length=1)
    locale: str


class Placeholders(_Value):
    """The texts that stand in a user's empty message box, one at a time."""

    texts: tuple[str, ...] = Field(min_length=1)


class AgentWelcome(_Value):
    """What an agent says first, and the open questions it offers to go on with."""

    message: str
    questions: tuple[str, ...] = Field(min_length=1)


class _Repository:
    """Each call opens its own connection, so an instance may be shared by any number of threads."""

    def __init__(self, path: str | Path) -> None:
        """Raise `FileNotFoundError` when no database is there yet, instead of making an empty one."""
        self._path = Path(path)
        if not self._path.is_file():
            raise FileNotFoundError(f"no database at '{path}'; make it first with data.create('{path}')")

    def _rows(self, sql: str, **values: object) -> list[sqlite3.Row]:
        with connect(self._path) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, values).fetchall()

    def _write(self, sql: str, **values: object) -> None:
        with connect(self._path) as connection:
            connection.execute(sql, values)

    def _count(self, sql: str) -> int:
        return int(self._rows(sql)[0][0])

    def _first_column(self, sql: str, **values: object) -> list[str]:
        return [row[0] for row in self._rows(sql, **values)]

    def _page(self, sql: str, cursor: str | None, limit: int, paid_only: bool) -> tuple[list[str], str | None]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        # One row more than asked for tells whether anything follows, so that no page is ever fetched in vain.
        ids = self._first_column(sql, after=cursor or "", limit=limit + 1, paid_only=paid_only)
        page = ids[:limit]
        return page, page[-1] if len(ids) > limit else None


class UserRepository(_Repository):
    """Users in the order of their ids, and the placeholders written for them."""

    def ids_after(self, cursor: str | None, limit: int, *, paid_only: bool) -> tuple[list[str], str | None]:
        """Return at most `limit` ids after `cursor` (None: from the start), and the cursor of the next page.

        The next cursor is None exactly when nothing follows. A page costs the same wherever it lies, and users added
        or removed meanwhile never make another one appear twice or go missing. Raises `ValueError` for a limit below 1.
        """
        return self._page(
            """SELECT id FROM users WHERE id > :after
               AND (NOT :paid_only OR EXISTS (SELECT 1 FROM subscriptions WHERE user_id = users.id))
               ORDER BY id LIMIT :limit""",
            cursor,
            limit,
            paid_only,
        )

    def count(self, *, paid_only: bool) -> int:
        """Return how many ids all pages of `ids_after` hold together."""
        return self._count("SELECT count(*) FROM " + ("subscriptions" if paid_only else "users"))

    def get(self, user_id: str) -> User | None:
        """Return the user, or None when there is no such id."""
        rows = self._rows("SELECT * FROM users WHERE id = :id", id=user_id)
        if not rows:
            return None
        return User.model_validate(dict(rows[0]) | {"interests": json.loads(rows[0]["interests"])})

    def without_placeholders(self, user_ids: Sequence[str]) -> list[str]:
        """Return those of `user_ids` that have no placeholders yet, in the order given."""
        sql = "SELECT user_id FROM placeholders WHERE user_id IN (SELECT value FROM json_each(:ids))"
        done = set(self._first_column(sql, ids=json.dumps(list(user_ids))))
        return [user_id for user_id in user_ids if user_id not in done]

    def save_placeholders(self, user_id: str, placeholders: Placeholders) -> None:
        """Keep the user's placeholders in place of earlier ones; on disk when this returns, and safe to repeat.

        Raises `sqlite3.IntegrityError` when there is no such user.
        """
        self._write(
            "INSERT INTO placeholders VALUES (:id, :body) ON CONFLICT (user_id) DO UPDATE SET body = excluded.body",
            id=user_id,
            body=placeholders.model_dump_json(),
        )

    def placeholders(self, user_id: str) -> Placeholders | None:
        """Return what was last saved for the user, or None."""
        bodies = self._first_column("SELECT body FROM placeholders WHERE user_id = :id", id=user_id)
        return Placeholders.model_validate_json(bodies[0]) if bodies else None

    def count_placeholders(self) -> int:
        """Return how many users have placeholders."""
        return self._count("SELECT count(*) FROM placeholders")


class AgentRepository(_Repository):
    """Agents in the order of their ids, and the welcomes written for them."""

    def ids_after(self, cursor: str | None, limit: int, *, paid_only: bool) -> tuple[list[str], str | None]:
        """As `UserRepository.ids_after`; `paid_only` leaves the agents whose owner is subscribed."""
        return self._page(
            """SELECT id FROM agents WHERE id > :after
               AND (NOT :paid_only OR EXISTS (SELECT 1 FROM subscriptions WHERE user_id = owner_id))
               ORDER BY id LIMIT :limit""",
            cursor,
            limit,
            paid_only,
        )

    def count(self, *, paid_only: bool) -> int:
        """Return how many ids all pages of `ids_after` hold together."""
        sql = "SELECT count(*) FROM agents"
        paid = " JOIN subscriptions ON user_id = owner_id"
        return self._count(sql + paid if paid_only else sql)

    def get(self, agent_id: str) -> Agent | None:
        """Return the agent, or None when there is no such id."""
        rows = self._rows(
            "SELECT agents.*, locale FROM agents JOIN users ON users.id = owner_id WHERE agents.id = :id", id=agent_id
        )
        if not rows:
            return None
        return Agent.model_validate(dict(rows[0]) | {"topics": json.loads(rows[0]["topics"])})

    def without_welcome(self, agent_ids: Sequence[str]) -> list[str]:
        """Return those of `agent_ids` that have no welcome yet, in the order given."""
        sql = "SELECT agent_id FROM agent_welcomes WHERE agent_id IN (SELECT value FROM json_each(:ids))"
        done = set(self._first_column(sql, ids=json.dumps(list(agent_ids))))
        return [agent_id for agent_id in agent_ids if agent_id not in done]

    def save_welcome(self, agent_id: str, welcome: AgentWelcome) -> None:
        """As `UserRepository.save_placeholders`, for an agent's welcome."""
        self._write(
            "INSERT INTO agent_welcomes VALUES (:id, :body) ON CONFLICT (agent_id) DO UPDATE SET body = excluded.body",
            id=agent_id,
            body=welcome.model_dump_json(),
        )

    def welcome(self, agent_id: str) -> AgentWelcome | None:
        """Return what was last saved for the agent, or None."""
        bodies = self._first_column("SELECT body FROM agent_welcomes WHERE agent_id = :id", id=agent_id)
        return AgentWelcome.model_validate_json(bodies[0]) if bodies else None

    def count_welcomes(self) -> int:
        """Return how many agents have a welcome."""
        return self._count("SELECT count(*) FROM agent_welcomes")
