"""The time and chance between steps."""

import pytest

from tests.checking.marked import assert_found, assert_messages, messages

FOUND = {
    "import datetime as dt": ["dt.datetime.now()", "dt.datetime.now(dt.UTC)", "dt.date.today()"],
    "from datetime import datetime, date": ["datetime.utcnow()", "datetime.today()", "date.today()"],
    "import time": ["time.time()", "time.monotonic()", "time.perf_counter()", "time.time_ns()", "time.localtime()"],
    "from time import monotonic as clock": ["clock()"],
    "import asyncio": ["asyncio.get_running_loop().time()"],
    "import random": ["random.random()", "random.choice(a)", "random.shuffle(a)", "random.Random()"],
    "from random import randint as dice": ["dice(1, 6)"],
    "import uuid": ["uuid.uuid1()", "uuid.uuid4()", "str(uuid.uuid4())", "f'{uuid.uuid4()}'"],
    "from uuid import uuid4 as u": ["u()", "u().hex"],
    "import secrets": ["secrets.token_hex(8)", "secrets.choice(a)"],
    "import os": ["os.urandom(8)"],
}

FINE = {
    "import datetime as dt": ["dt.datetime.fromisoformat(a)", "dt.timedelta(1)", "dt.datetime(2030, 1, 1)"],
    "import time": ["time.localtime(a)", "time.strftime(a, b)"],
    "import random": ["random.Random(7)", "random"],
    "import uuid": ["uuid.UUID(a)", "uuid.uuid5(a, b)"],
    "import secrets": ["secrets.compare_digest(a, b)"],
    "": ["clock.now()", "random.random()", "time()", "ctx.now()", "ctx.random()", "ctx.uuid()"],
}


@pytest.mark.parametrize(("line", "code"), [(line, code) for line, found in FOUND.items() for code in found])
def test_time_and_chance_between_steps_are_found(line: str, code: str) -> None:
    """By whatever name they were imported, in the module or in the function."""
    assert len(messages(f"{line}\nasync def run(ctx):\n    x = {code}\n")) == 1
    assert len(messages(f'async def run(ctx):\n    {line}\n    await ctx.run(f"a:{{{code}}}", fn)\n')) == 1


@pytest.mark.parametrize(("line", "code"), [(line, code) for line, found in FINE.items() for code in found])
def test_what_only_looks_like_time_or_chance_is_fine(line: str, code: str) -> None:
    """Values that are computed, a seeded generator, names that were not imported, the context's own."""
    assert messages(f"{line}\nasync def run(ctx):\n    x = {code}\n") == []


def test_time_and_chance_inside_steps_are_fine() -> None:
    """In a lambda, in a function of the function's own, in one of the module, and as the step itself."""
    assert_found("""
        import time, random, uuid
        from functools import partial

        def draw():
            return random.random()

        async def run(ctx):
            async def stamp():
                return time.time()
            await ctx.run("a", lambda: time.time())
            await ctx.run("b", stamp)
            await ctx.run("c", draw)
            await ctx.run("d", uuid.uuid4)
            await ctx.run("e", partial(random.choice, [1, 2]))
            await ctx.step(timeout="5s").run("f", lambda: random.random())
    """)


def test_arguments_of_a_step_are_not_inside_of_it() -> None:
    """They are computed before it starts."""
    assert_found("""
        import time
        async def run(ctx):
            await ctx.run("a", fn, time.time())  # !time
            await ctx.run("b", partial(fn, time.time()))  # !time
    """)


def test_code_that_is_called_between_steps_is_between_steps() -> None:
    """A lambda, a function of the function's own, a plain one of the module, a method of the class."""
    assert_found("""
        import time, random

        def now():
            return time.time()  # !time

        class Batch:
            async def run(self, ctx, item):
                def local():
                    return random.random()  # !random
                sorted(item, key=lambda it: random.random())  # !random
                self.stamp()
                await ctx.run(f"a:{local()}", fn, now())

            def stamp(self):
                time.time()  # !time

            def unused(self):
                time.time()
    """)


def test_names_of_the_functions_own_hide_modules() -> None:
    """A variable is not the module of the same name."""
    assert_found("""
        import random, time
        async def run(ctx):
            random = ctx.random()
            random.choice([1, 2])
            for time in ctx.payload:
                time.time()
    """)


def test_time_and_chance_come_with_advice() -> None:
    """By the context's own name."""
    text = """
        import os, time, uuid
        async def run(context):
            time.time(), os.urandom(8), uuid.uuid4()
    """
    assert_messages(text, "use context.random()", "use context.uuid()", "use context.now()")
