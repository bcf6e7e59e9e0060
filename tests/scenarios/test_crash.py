"""A real process, killed with -9 at random moments, over and over: nothing is lost, nothing recorded is done again."""

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.scenarios.crash_program import CONCURRENCY
from tests.scenarios.places import Place, Process
from tests.waiting import wait_until_sync

STEPS = {1: "get-item", 2: "process-item", 3: "save-result"}


class Killed:
    """The program, its database and its log."""

    def __init__(self, place: Place, hook: str) -> None:
        self.place = place
        self.hook = hook
        # Each item is a request on QStash.
        self.items, self.rounds = (100, 2) if place.is_qstash else (400, 5)
        self.database = Path(place.store.removeprefix("sqlite:///"))
        self.log = place.folder / "log"
        self.log.touch()

    def start(self) -> Process:
        return self.place.start("crash_program", self.log, self.items, self.hook)

    def kill_after(self, process: Process, lines: int) -> bool:
        """Kill a process once the log has more lines than this; False if it has ended before."""
        wait_until_sync(
            lambda: len(self.lines()) > lines or process.poll() is not None, description="the program writes lines"
        )
        has_ended = process.poll() is not None
        process.kill()
        process.wait()
        return not has_ended

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def recorded(self) -> set[str]:
        """The lines that the database holds as done: none of them may be written again."""
        if not self.database.exists():
            return set()
        with closing(sqlite3.connect(self.database)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'step'").fetchone():
                return set()
            steps = connection.execute(
                "SELECT s.number, i.id FROM step s JOIN message m ON m.id = s.run"
                " JOIN item i ON i.batch = m.batch AND i.number = m.number WHERE s.state = 'done'"
            ).fetchall()
            ended = connection.execute("SELECT id FROM item WHERE state = 'succeeded'").fetchall()
        found = {f"{STEPS[number]} {item}" for number, item in steps}
        return found | {f"{step} {item}" for (item,) in ended for step in STEPS.values()}

    def read(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql).fetchall()


@pytest.mark.parametrize(("hook", "seed"), [("execute", 1), ("execute", 2), ("execute_many", 3)])
@pytest.mark.parametrize("place", ["sqlite", "qstash-sqlite"], indirect=True)
def test_crash_loses_no_item_and_repeats_only_what_was_in_flight(
    place: Place, hook: str, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Killed up to ten times at random moments; each time the next start goes on where the last one was cut off."""
    chance = random.Random(seed)
    killed = Killed(place, hook)
    kills = 0
    for _ in range(killed.rounds):
        target = len(killed.lines()) + chance.randrange(0, 3 * killed.items // killed.rounds)
        if not killed.kill_after(killed.start(), target):
            break
        kills += 1
        recorded, written = killed.recorded(), len(killed.lines())
        kills += killed.kill_after(killed.start(), written)
        assert recorded.isdisjoint(killed.lines()[written:]), "a recorded step was executed again"
    last = killed.start()
    assert last.wait(timeout=300) == 0, place.output.read_text()
    _check_the_end(killed, kills, record_property)


def _check_the_end(killed: Killed, kills: int, record_property: Callable[[str, object], None]) -> None:
    counts = Counter(killed.lines())
    for number in range(killed.items):
        for step in STEPS.values():
            assert counts[f"{step} item-{number}"] >= 1
    repeated = sum(count - 1 for count in counts.values())
    record_property("kills", kills)
    record_property("steps executed again", repeated)
    assert repeated <= kills * (CONCURRENCY + 1)
    assert killed.read("SELECT state, count(*) FROM item GROUP BY state") == [("succeeded", killed.items)]
    assert killed.read("SELECT state, eligible, open, succeeded, failed, duplicates, working FROM batch") == [
        ("completed", killed.items, 0, killed.items, 0, 0, 0)
    ]
    assert killed.read("SELECT count(*) FROM message") == [(0,)]
    assert killed.read("SELECT count(*) FROM step WHERE run LIKE '%.r%'") == [(0,)]
    assert killed.read("SELECT sum(in_use) FROM flow") == [(0,)]
    assert killed.read("SELECT count(*) FROM message WHERE died_at IS NOT NULL") == [(0,)]
    completions = [line for line in counts if line.startswith("on-complete")]
    assert len(completions) == 1
