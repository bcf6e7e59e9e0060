"""A real process, killed with -9 at random moments, over and over: nothing is lost, nothing recorded is done again."""

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.scenarios.crash_program import CONCURRENCY
from tests.waiting import wait_until_sync

ITEMS = 400
KILLS = 5
ROOT = Path(__file__).parents[2]
STEPS = {1: "get-item", 2: "process-item", 3: "save-result"}


class Killed:
    """The program, its database and its log."""

    def __init__(self, folder: Path, hook: str) -> None:
        self.hook = hook
        self.database = folder / "crash.db"
        self.log = folder / "log"
        self.log.touch()
        self.output = folder / "output"

    def start(self) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "tests.scenarios.crash_program",
            self.database,
            self.log,
            str(ITEMS),
            self.hook,
        ]
        with self.output.open("ab") as output:
            return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

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
def test_crash_loses_no_item_and_repeats_only_what_was_in_flight(
    tmp_path: Path, hook: str, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Killed up to ten times at random moments; each time the next start goes on where the last one was cut off."""
    chance = random.Random(seed)
    killed = Killed(tmp_path, hook)
    kills = 0
    for _ in range(KILLS):
        process = killed.start()
        target = len(killed.lines()) + chance.randrange(0, 3 * ITEMS // KILLS)
        wait_until_sync(
            lambda: len(killed.lines()) > target or process.poll() is not None,  # noqa: B023
            description="the program to write lines",
        )
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        recorded, written = killed.recorded(), len(killed.lines())
        survivor = killed.start()
        wait_until_sync(
            lambda: len(killed.lines()) > written or survivor.poll() is not None,  # noqa: B023
            description="the next start to go on",
        )
        survivor.send_signal(signal.SIGKILL)
        survivor.wait()
        kills += 1
        assert recorded.isdisjoint(killed.lines()[written:]), "a recorded step was executed again"
    last = killed.start()
    assert last.wait(timeout=60) == 0, killed.output.read_text()
    _check_the_end(killed, kills, record_property)


def _check_the_end(killed: Killed, kills: int, record_property: Callable[[str, object], None]) -> None:
    counts = Counter(killed.lines())
    for number in range(ITEMS):
        for step in STEPS.values():
            assert counts[f"{step} item-{number}"] >= 1
    repeated = sum(count - 1 for count in counts.values())
    record_property("kills", kills)
    record_property("steps executed again", repeated)
    assert repeated <= kills * (CONCURRENCY + 1)
    assert killed.read("SELECT state, count(*) FROM item GROUP BY state") == [("succeeded", ITEMS)]
    assert killed.read("SELECT state, eligible, open, succeeded, failed, duplicates, working FROM batch") == [
        ("completed", ITEMS, 0, ITEMS, 0, 0, 0)
    ]
    assert killed.read("SELECT count(*) FROM message") == [(0,)]
    assert killed.read("SELECT count(*) FROM step WHERE run LIKE '%.r%'") == [(0,)]
    assert killed.read("SELECT sum(in_use) FROM flow") == [(0,)]
    assert killed.read("SELECT count(*) FROM message WHERE died_at IS NOT NULL") == [(0,)]
    completions = [line for line in counts if line.startswith("on-complete")]
    assert len(completions) == 1
