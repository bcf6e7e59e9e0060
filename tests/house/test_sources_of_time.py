"""Time and chance come from one place; everything else is given them."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.sources import Source, sources

DRAWN = {
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "os": {"urandom"},
    "random": {"*"},
    "secrets": {"*"},
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"},
    "uuid": {"uuid1", "uuid4", "uuid7"},
}
EVERYTHING = ("batchflow/engine/clock.py", "batchflow/testing/")
# Scheduling on the event loop needs the loop's own time; nothing of it is stored.
SCHEDULING = ("batchflow/engine/", "batchflow/batch/collector.py", "batchflow/qstash/attempt.py")
SCHEDULING_NAMES = {"time.perf_counter", "time.perf_counter_ns", "loop.time"}


def drawn_from(module: str, name: str) -> bool:
    return bool(DRAWN.get(module, set()) & {name, "*"})


def is_loop(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.endswith("loop")
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in {"get_running_loop", "get_event_loop"}
        case _:
            return False


def uses(source: Source) -> Iterator[tuple[str, str]]:
    """Every use of time or chance: what, and where."""
    for node in ast.walk(source.tree):
        match node:
            case ast.Attribute(value=value, attr="time") if is_loop(value):
                yield "loop.time", source.place(node)
            case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
                if drawn_from(owner, name):
                    yield f"{owner}.{name}", source.place(node)
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    if drawn_from(module, alias.name) and module != "datetime":
                        yield f"{module}.{alias.name}", source.place(node)
            case ast.Import(names=names):
                # Under another name its uses would not be seen.
                for alias in names:
                    if alias.name in DRAWN and alias.asname not in {None, alias.name}:
                        yield f"{alias.name} as {alias.asname}", source.place(node)
            case _:
                pass


def allowed(what: str, path: str) -> bool:
    return path.startswith(EVERYTHING) or (what in SCHEDULING_NAMES and path.startswith(SCHEDULING))


def test_time_and_chance_come_from_one_place() -> None:
    """Only the system clock, the system's ids and the test kit ask the machine."""
    found = [
        f"{place} {what}"
        for source in sources("batchflow")
        for what, place in uses(source)
        if not allowed(what, source.path)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time\nclock = time.monotonic", "time.monotonic"),
        ("from time import monotonic", "time.monotonic"),
        ("from datetime import datetime\ndatetime.now()", "datetime.now"),
        ("import datetime\ndatetime.datetime.now()", "datetime.now"),
        ("import uuid\nuuid.uuid4()", "uuid.uuid4"),
        ("import random\nrandom.shuffle([])", "random.shuffle"),
        ("from random import random", "random.random"),
        ("import time as t", "time as t"),
        ("import asyncio\nasyncio.get_running_loop().time()", "loop.time"),
        ("self.loop.time()", "loop.time"),
    ],
)
def test_the_rule_sees_every_way_to_ask(text: str, what: str) -> None:
    """Attribute, import and alias are all found."""
    assert what in [name for name, _ in uses(Source(path="a.py", text=text, tree=ast.parse(text)))]


def test_scheduling_may_read_the_loop_but_not_the_wall_clock() -> None:
    """Inside the engine only the loop's time and the performance counter are free."""
    assert allowed("loop.time", "batchflow/engine/dispatcher.py")
    assert not allowed("time.time", "batchflow/engine/dispatcher.py")
    assert not allowed("loop.time", "batchflow/batch/runtime.py")
