"""Tests wait for what they need, not for time to pass."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.sources import Source, sources

WAITING = "tests/waiting.py"
SLEEPERS = {"time", "asyncio", "anyio"}


def sleeps(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr="sleep"), args=arguments):
                if module in SLEEPERS and not gives_a_turn(module, arguments):
                    yield source.place(node)
            case ast.ImportFrom(module=str(module), names=names) if module in SLEEPERS:
                if any(alias.name == "sleep" for alias in names):
                    yield source.place(node)
            case _:
                pass


def gives_a_turn(module: str, arguments: list[ast.expr]) -> bool:
    """Whether the call only lets the other tasks run."""
    match arguments:
        case [ast.Constant(value=0)]:
            return module != "time"
        case _:
            return False


def test_tests_do_not_sleep() -> None:
    """Tests use `wait_until`, a manual clock or a signal."""
    found = [place for source in sources("tests") if source.path != WAITING for place in sleeps(source)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import time\ntime.sleep(0)", 1),
        ("import asyncio\nasyncio.sleep(0.1)", 1),
        ("import asyncio\nasyncio.sleep(0)", 0),
        ("import asyncio\nasyncio.sleep(delay)", 1),
        ("from asyncio import sleep", 1),
        ("ctx.sleep('a while', 5)", 0),
    ],
)
def test_the_rule_knows_a_sleep_from_a_turn_of_the_loop(text: str, count: int) -> None:
    """A durable `ctx.sleep` and `asyncio.sleep(0)` are free."""
    assert len(list(sleeps(Source(path="a.py", text=text, tree=ast.parse(text))))) == count
