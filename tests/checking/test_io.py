"""Input, output and waiting between steps, and globals that are changed there."""

import pytest

from tests.checking.marked import assert_found, assert_messages, messages

FOUND = {
    "import requests": ["requests.get(a)", "requests.Session()"],
    "from httpx import get": ["get(a)"],
    "import httpx as web": ["web.post(a)", "web.Client()"],
    "import urllib.request": ["urllib.request.urlopen(a)"],
    "from urllib import request": ["request.urlopen(a)"],
    "import subprocess": ["subprocess.run(a)"],
    "import socket": ["socket.create_connection(a)"],
    "import sqlite3": ["sqlite3.connect(a)"],
    "import os": ["os.listdir(a)", "os.remove(a)", "os.path.exists(a)", "os.getenv(a)", "os.environ[a]"],
    "from os import environ": ["environ.get(a)"],
    "from pathlib import Path": [
        "Path(a).exists()",
        "Path(a).read_text()",
        "(Path(a) / 'b').open()",
        "Path(a).parent.mkdir()",
        "Path.cwd()",
    ],
    "": ["open(a)", "input()", "file.read_text()"],
}

FINE = {
    "import os": ["os.path.join(a, b)", "os.sep", "os.fspath(a)"],
    "from pathlib import Path": ["Path(a).name", "Path(a) / 'b'", "Path(a).with_suffix('.x')"],
    "import httpx": ["httpx.URL(a)", "httpx.HTTPError(a)"],
    "from urllib.parse import quote": ["quote(a)"],
    "": ["shop.open()", "queue.exists()", "print(a)", "text.replace(a, b)", "a.get(b)"],
}


@pytest.mark.parametrize(("line", "code"), [(line, code) for line, found in FOUND.items() for code in found])
def test_input_and_output_between_steps_are_found(line: str, code: str) -> None:
    """Between steps, and not in one."""
    assert len(messages(f"{line}\nasync def run(ctx):\n    x = {code}\n")) == 1
    assert messages(f"{line}\nasync def run(ctx):\n    await ctx.run('a', lambda: {code})\n") == []


@pytest.mark.parametrize(("line", "code"), [(line, code) for line, found in FINE.items() for code in found])
def test_what_only_computes_is_fine(line: str, code: str) -> None:
    """Names and values of what could be read, and methods of something else."""
    assert messages(f"{line}\nasync def run(ctx):\n    x = {code}\n") == []


def test_a_path_is_known_by_its_name() -> None:
    """A variable, a constant of the module, an annotated parameter; of something else nothing is said."""
    assert_found("""
        from pathlib import Path
        ROOT = Path("data")

        def look(ctx, place: Path):
            place.unlink()  # !io

        async def run(ctx):
            file = ROOT / "a"
            file.touch()  # !io
            ROOT.exists()  # !io
            door = shop / "a"
            door.open()
            look(ctx, ROOT)
    """)


def test_an_open_of_the_users_own_is_not_the_builtin() -> None:
    """It was imported or defined under that name."""
    assert_found("""
        from shop import open
        async def run(ctx):
            input = ctx.payload
            open(input)
            input()
    """)


def test_sleeping_is_found() -> None:
    """In a step it is fine, and `asyncio.sleep(0)` waits for nothing."""
    assert_found("""
        import asyncio, time
        from asyncio import sleep
        async def run(ctx):
            await asyncio.sleep(5)  # !sleep
            await sleep(5)  # !sleep
            time.sleep(5)  # !sleep
            await asyncio.sleep(0)
            await ctx.sleep("a", 5)
            await ctx.run("b", asyncio.sleep, 5)
    """)


def test_a_global_that_is_changed_is_found() -> None:
    """Between steps; reading one, or changing it in a step, is fine."""
    assert_found("""
        COUNT = 0
        async def run(ctx):
            def count():
                global COUNT
                COUNT += 1
            def count_here():
                global COUNT  # !global
                COUNT += 1
            count_here()
            await ctx.run("count", count)
            return COUNT
    """)


def test_input_and_output_come_with_advice() -> None:
    """By the context's own name."""
    text = """
        import os, time
        async def run(context):
            global COUNT, SUM
            open("a")
            os.getenv("A")
            time.sleep(5)
    """
    assert_messages(text, "global 'COUNT', 'SUM'", "context.run(", "use context.env", "context.sleep(")
