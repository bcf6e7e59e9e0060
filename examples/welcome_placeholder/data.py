"""The example's database: its tables, its rows, and how a connection to it is opened."""

import json
import random
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

USERS, SUBSCRIBERS, AGENTS = 1_000, 400, 300
SEED = 20240501
BUSY_TIMEOUT_SECONDS = 10.0

TABLES = """
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, locale TEXT NOT NULL, interests TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subscriptions (
    user_id TEXT PRIMARY KEY REFERENCES users (id), plan TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS agents (
    id TEXT PRIMARY KEY, owner_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL, purpose TEXT NOT NULL, topics TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS placeholders (
    user_id TEXT PRIMARY KEY REFERENCES users (id), body TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS agent_welcomes (
    agent_id TEXT PRIMARY KEY REFERENCES agents (id), body TEXT NOT NULL
) WITHOUT ROWID;
"""

PEOPLE = {
    "en-GB": ("Amelia Oliver Isla Harry Freya George", "Clarke Hughes Patel Bennett Walsh"),
    "en-US": ("Emma Liam Ava Noah Maya Ethan", "Johnson Rivera Nguyen Miller Brooks"),
    "de-DE": ("Lena Jonas Marie Felix Greta Paul", "Müller Schneider Vogel Krüger Weiß"),
    "fr-FR": ("Chloé Hugo Inès Louis Manon Théo", "Martin Lefèvre Moreau Garnier Benoît"),
    "es-ES": ("Lucía Mateo Sofía Pablo Carmen Álvaro", "García Navarro Ortega Muñoz Vidal"),
    "pt-BR": ("Ana João Beatriz Lucas Letícia Rafael", "Silva Souza Araújo Ferreira Lima"),
    "ja-JP": ("Yui Haruto Sakura Ren Aoi Sota", "Sato Tanaka Watanabe Kobayashi Mori"),
}

INTERESTS = (
    "trail running, sourdough baking, film photography, chess openings, jazz piano, indoor plants, "
    "bouldering, board games, street food, science fiction, home espresso, birdwatching, watercolour, "
    "cycling holidays, personal finance, woodworking, open source, yoga, stargazing, city gardening, "
    "learning Spanish, podcasts, restoring furniture, wild swimming"
)

SPECIALITIES = {
    "Recipe Coach": ("plans meals around what is in the fridge", ("weeknight dinners", "leftovers", "spices")),
    "Trip Planner": ("turns a free weekend into an itinerary", ("night trains", "short trips", "packing light")),
    "Study Partner": ("explains a subject until it is clear", ("exam plans", "note taking", "hard concepts")),
    "Budget Buddy": ("keeps an eye on monthly spending", ("saving goals", "subscriptions", "groceries")),
    "Fitness Guide": ("builds training plans that fit the week", ("first 10k", "mobility", "rest days")),
    "Code Reviewer": ("reads a change and asks the right questions", ("naming", "test design", "refactoring")),
    "Garden Helper": ("says what to sow and when", ("balcony pots", "compost", "seedlings")),
    "Story Editor": ("tightens a draft without losing its voice", ("openings", "dialogue", "pacing")),
}


@contextmanager
def connect(path: str | Path) -> Generator[sqlite3.Connection, None, None]:
    """Open a connection for one unit of work: committed at the end, rolled back on an error, closed in any case.

    A writer that finds another one at work waits up to `BUSY_TIMEOUT_SECONDS` before `sqlite3.OperationalError`.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        # A batch counts an item as done for good, so its texts have to be on disk by then.
        connection.execute("PRAGMA synchronous = FULL")
        with connection:
            yield connection


def create(path: str | Path) -> None:
    """Make the database at `path`, or leave it as it is when it has its users already.

    The rows are the same on every machine: 1,000 users of whom 400 are subscribed, and 300 agents that belong to
    some of them. All of it appears in one transaction, so an interrupted call leaves nothing half made and two
    processes may call at once.
    """
    with connect(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            connection.execute(statement)
        (made,) = connection.execute("SELECT EXISTS (SELECT 1 FROM users)").fetchone()
        if not made:
            _fill(connection)
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection, suppress(sqlite3.OperationalError):
        # The mode stays with the file, so that later connections read while another one writes. Who finds the file in
        # use is refused without waiting; then another caller sets it.
        connection.execute("PRAGMA journal_mode = WAL")


def _fill(connection: sqlite3.Connection) -> None:
    chance = random.Random(SEED)
    user_ids = [f"user-{number:04}" for number in range(1, USERS + 1)]
    subscribers = sorted(chance.sample(user_ids, SUBSCRIBERS))
    connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", [(i, *_person(chance)) for i in user_ids])
    connection.executemany(
        "INSERT INTO subscriptions VALUES (?, ?)", [(i, chance.choice(("plus", "pro"))) for i in subscribers]
    )
    connection.executemany(
        "INSERT INTO agents VALUES (?, ?, ?, ?, ?)",
        [(f"agent-{number:04}", chance.choice(user_ids), *_agent(chance)) for number in range(1, AGENTS + 1)],
    )


def _person(chance: random.Random) -> tuple[str, str, str]:
    locale = chance.choice(tuple(PEOPLE))
    given, family = (chance.choice(names.split()) for names in PEOPLE[locale])
    interests = chance.sample(INTERESTS.split(", "), chance.randint(2, 5))
    return f"{given} {family}", locale, json.dumps(interests)


def _agent(chance: random.Random) -> tuple[str, str, str]:
    name = chance.choice(tuple(SPECIALITIES))
    purpose, topics = SPECIALITIES[name]
    return name, purpose, json.dumps(topics)
