"""The example's repositories: pages, items, and texts that are kept."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.welcome_placeholder.data import connect, create
from examples.welcome_placeholder.repository import (
    AgentRepository,
    AgentWelcome,
    Placeholders,
    UserRepository,
)

TEXTS = Placeholders(texts=("Ask me about chess", "Ask me what is new in Zürich", "Ask me for a tip on tea"))
WELCOME = AgentWelcome(message="Hello!", questions=("What brings you here?",))


@pytest.fixture(name="path")
def database(tmp_path: Path) -> Path:
    create(tmp_path / "welcome.db")
    return tmp_path / "welcome.db"


@pytest.fixture(name="users")
def user_repository(path: Path) -> UserRepository:
    return UserRepository(path)


@pytest.fixture(name="agents")
def agent_repository(path: Path) -> AgentRepository:
    return AgentRepository(path)


def pages(
    repository: UserRepository | AgentRepository, limit: int, *, paid_only: bool = False
) -> Iterator[tuple[list[str], str | None]]:
    cursor: str | None = None
    while True:
        ids, cursor = repository.ids_after(cursor, limit, paid_only=paid_only)
        yield ids, cursor
        if cursor is None:
            return


@pytest.mark.parametrize("paid_only", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
def test_pages_hold_each_user_once_in_order(users: UserRepository, limit: int, paid_only: bool) -> None:
    """The pages laid end to end are the ids, as many as are counted, whatever the limit."""
    found = [user_id for ids, _ in pages(users, limit, paid_only=paid_only) for user_id in ids]
    assert found == sorted(set(found))
    assert len(found) == users.count(paid_only=paid_only) == (400 if paid_only else 1000)


@pytest.mark.parametrize("paid_only", [False, True])
def test_pages_hold_each_agent_once_in_order(agents: AgentRepository, paid_only: bool) -> None:
    """The same for agents; some owners are subscribed, some are not."""
    found = [agent_id for ids, _ in pages(agents, 20, paid_only=paid_only) for agent_id in ids]
    assert found == sorted(set(found))
    assert len(found) == agents.count(paid_only=paid_only)
    assert (agents.count(paid_only=False), 0 < agents.count(paid_only=True) < 300) == (300, True)


def test_a_page_that_ends_with_the_last_id_has_no_next_cursor(users: UserRepository) -> None:
    """1,000 users in pages of 50 are 20 pages, none of them empty."""
    assert [(len(ids), cursor is None) for ids, cursor in pages(users, 50)] == [(50, False)] * 19 + [(50, True)]


def test_a_cursor_behind_the_last_id_gives_an_empty_last_page(users: UserRepository) -> None:
    """Nothing there, nothing follows."""
    assert users.ids_after("user-9999", 10, paid_only=False) == ([], None)


def test_a_cursor_stays_good_when_its_user_goes(path: Path, users: UserRepository) -> None:
    """A page goes on after the cursor, though the id it names was removed."""
    _, cursor = users.ids_after(None, 3, paid_only=False)
    with connect(path) as connection:
        connection.execute("DELETE FROM subscriptions WHERE user_id = 'user-0003'")
        connection.execute("DELETE FROM agents WHERE owner_id = 'user-0003'")
        connection.execute("DELETE FROM users WHERE id = 'user-0003'")
    assert users.ids_after(cursor, 2, paid_only=False) == (["user-0004", "user-0005"], "user-0005")


def test_a_limit_below_one_is_refused(users: UserRepository) -> None:
    """A page of nothing would never end."""
    with pytest.raises(ValueError, match=r"^limit must be at least 1, not 0$"):
        users.ids_after(None, 0, paid_only=False)


def test_paid_only_leaves_the_agents_of_subscribed_owners(users: UserRepository, agents: AgentRepository) -> None:
    """Whoever owns one of them is among the paid users."""
    paid = set(users.ids_after(None, 1000, paid_only=True)[0])
    everyone = [agents.get(agent_id) for agent_id in agents.ids_after(None, 1000, paid_only=False)[0]]
    expected = [agent.id for agent in everyone if agent and agent.owner_id in paid]
    assert agents.ids_after(None, 1000, paid_only=True) == (expected, None)


def test_every_user_and_agent_can_be_got(users: UserRepository, agents: AgentRepository) -> None:
    """All rows are valid, and an agent speaks its owner's language."""
    everyone = {user_id: users.get(user_id) for user_id in users.ids_after(None, 1000, paid_only=False)[0]}
    for agent_id in agents.ids_after(None, 1000, paid_only=False)[0]:
        agent = agents.get(agent_id)
        assert agent is not None
        owner = everyone[agent.owner_id]
        assert owner is not None
        assert (agent.id, agent.locale) == (agent_id, owner.locale)
    assert all(user is not None and user.id == user_id for user_id, user in everyone.items())


def test_an_unknown_id_is_none(users: UserRepository, agents: AgentRepository) -> None:
    """Nobody there is an answer, not an error."""
    assert (users.get("nobody"), agents.get("nobody")) == (None, None)
    assert (users.placeholders("nobody"), agents.welcome("nobody")) == (None, None)


def test_placeholders_come_back_as_saved(users: UserRepository) -> None:
    """What was saved last is what is read, and saving again counts once."""
    users.save_placeholders("user-0007", Placeholders(texts=("an earlier one",)))
    users.save_placeholders("user-0007", TEXTS)
    users.save_placeholders("user-0007", TEXTS)
    assert (users.placeholders("user-0007"), users.count_placeholders()) == (TEXTS, 1)


def test_welcomes_come_back_as_saved(agents: AgentRepository) -> None:
    """The same for agents."""
    agents.save_welcome("agent-0007", AgentWelcome(message="Hi", questions=("What?",)))
    agents.save_welcome("agent-0007", WELCOME)
    assert (agents.welcome("agent-0007"), agents.count_welcomes()) == (WELCOME, 1)


def test_texts_for_nobody_are_refused(users: UserRepository, agents: AgentRepository) -> None:
    """A text belongs to somebody who exists."""
    with pytest.raises(sqlite3.IntegrityError):
        users.save_placeholders("nobody", TEXTS)
    with pytest.raises(sqlite3.IntegrityError):
        agents.save_welcome("nobody", WELCOME)


def test_those_without_texts_keep_their_order(users: UserRepository, agents: AgentRepository) -> None:
    """Those who have texts are left out; the rest, unknown ids too, stay as they were given."""
    users.save_placeholders("user-0002", TEXTS)
    agents.save_welcome("agent-0001", WELCOME)
    assert users.without_placeholders(["user-0003", "user-0002", "nobody"]) == ["user-0003", "nobody"]
    assert agents.without_welcome(["agent-0002", "agent-0001"]) == ["agent-0002"]
    assert users.without_placeholders([]) == []


def test_one_repository_serves_many_threads(users: UserRepository) -> None:
    """Reads and writes from many threads at once all succeed."""
    ids, _ = users.ids_after(None, 100, paid_only=False)

    def greet(user_id: str) -> bool:
        users.save_placeholders(user_id, TEXTS)
        return users.placeholders(user_id) == TEXTS

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(greet, ids))
    assert users.count_placeholders() == 100


def test_a_missing_database_is_found_out_at_once(tmp_path: Path) -> None:
    """The message says what to call, and no empty file is left behind."""
    missing = tmp_path / "missing.db"
    with pytest.raises(FileNotFoundError) as caught:
        UserRepository(missing)
    assert str(caught.value) == f"no database at '{missing}'; make it first with data.create('{missing}')"
    assert not missing.exists()
