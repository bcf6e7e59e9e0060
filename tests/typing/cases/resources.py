"""Resources have the type of what is yielded, and may be given to a class as a function."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import assert_type

import httpx

from batchflow import Batchflow

flow = Batchflow()


@flow.resource
async def yielded() -> AsyncGenerator[int]:
    yield 1


@flow.resource
async def iterated() -> AsyncIterator[int]:
    yield 1


@flow.resource
def plain() -> Generator[str]:
    yield ""


@flow.resource
def iterated_plain() -> Iterator[str]:
    yield ""


@flow.resource
@asynccontextmanager
async def managed() -> AsyncGenerator[bytes]:
    yield b""


@flow.resource
@contextmanager
def managed_plain() -> Generator[bytes]:
    yield b""


client = flow.resource(httpx.AsyncClient)
database = flow.resource(lambda: sqlite3.connect(":memory:"))

assert_type(yielded(), int)
assert_type(iterated(), int)
assert_type(plain(), str)
assert_type(iterated_plain(), str)
assert_type(managed(), bytes)
assert_type(managed_plain(), bytes)
assert_type(client(), httpx.AsyncClient)
assert_type(database(), sqlite3.Connection)


class Job:
    def __init__(self, client: Callable[[], httpx.AsyncClient]) -> None: ...


Job(client)
# expect-error: "is not assignable to"
Job(plain)

with client.override(httpx.AsyncClient()):
    pass
# expect-error: "is not assignable to"
with client.override(1):
    pass


async def returned() -> int:
    return 1


# expect-error: "No overloads for"
# expect-error: "cannot be assigned to parameter"
flow.resource(returned)
