"""Reading and documenting request bodies."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Literal

import pytest
from httpx import AsyncClient
from pydantic import BaseModel, Field
from starlette.types import Message

from batchflow import Batchflow
from batchflow.http.openapi import request_body
from tests.http.conftest import app_of, client_of, scope_of
from tests.http.samples import assert_error, error_of, serve_all

LIMIT = 2_000
TOO_LARGE = (413, "the body is larger than 2,000 bytes", None)
PATHS = ["/welcome/process-users", "/welcome/paginate-users", "/welcome/generate-user", "/onboarding"]


@pytest.fixture
async def small(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Batchflow]:
    """An app that takes small bodies only."""
    monkeypatch.setenv("BATCHFLOW_MAX_BODY", str(LIMIT))
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    async with flow:
        yield flow


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_over_the_limit_is_413(path: str, small: Batchflow) -> None:
    """JSON or not; a body of exactly the limit is read."""
    async with client_of(small) as http:
        assert_error(await http.post(path, content=b"{" + b" " * LIMIT), TOO_LARGE)
        status, _, _ = error_of(await http.post(path, content=b"{" + b" " * (LIMIT - 1)))
        assert status == 400


async def test_an_endless_body_is_not_read_to_its_end(small: Batchflow) -> None:
    """Reading stops at the limit."""
    sent: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            sent.append(100)
            yield b" " * 100

    async with client_of(small) as http:
        assert_error(await http.post(PATHS[0], content=endless()), TOO_LARGE)
    assert sum(sent) <= LIMIT + 200


async def test_a_content_length_over_the_limit_is_413(small: Batchflow) -> None:
    """Nothing is read at all."""
    async with client_of(small) as http:
        response = await http.post(PATHS[0], content=b"{}", headers={"Content-Length": str(LIMIT + 1)})
    assert_error(response, TOO_LARGE)


@pytest.mark.parametrize("length", ["-1", "٣٠٠٠", "1e9", "", "9" * 30])
async def test_an_invalid_content_length_is_ignored(length: str, small: Batchflow) -> None:
    """The bytes are counted."""
    async with client_of(small) as http:
        headers = [(b"Content-Length", length.encode())]
        response = await http.post(PATHS[0], content=b"{}", headers=headers)
    assert response.status_code == 202


async def test_a_client_that_goes_away_starts_nothing(small: Batchflow) -> None:
    """Half a body triggers nothing and logs no error."""
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app_of(small)(scope_of("POST", PATHS[0]), receive, send)
    assert sent[0]["status"] == 400
    assert await small.engine.store.batches() == []


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "GZip": gzip.compress,
    "x-gzip": lambda body: gzip.compress(body[:3]) + gzip.compress(body[3:]),
    "deflate": zlib.compress,
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("path", PATHS[:1])
async def test_a_packed_body_is_unpacked(encoding: str, path: str, small: Batchflow) -> None:
    """As its Content-Encoding says."""
    body = PACKED[encoding](b'{"dryRun": true}')
    async with client_of(small) as http:
        response = await http.post(path, content=body, headers={"Content-Encoding": encoding})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", gzip.compress(b" " * (LIMIT + 1), mtime=0), TOO_LARGE),
        ("deflate", zlib.compress(b" " * 50_000_000)[:LIMIT], TOO_LARGE),
        ("gzip", b"{}", (400, "the body is not gzip, as its Content-Encoding says", None)),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"garbage of ours", (400, "the body is not gzip", None)),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-5], (400, "the body ends before its gzip does", None)),
        ("br", b"{}", (415, "the Content-Encoding of the body is not supported", None)),
        ("gzip, gzip", b"{}", (415, "send it as it is, or as gzip or deflate", None)),
    ],
)
async def test_a_body_that_cannot_be_unpacked_is_refused(
    encoding: str, body: bytes, expected: tuple[int, str, str | None], small: Batchflow
) -> None:
    """The sentence names the encoding, and no more than the limit is unpacked."""
    async with client_of(small) as http:
        for path in PATHS:
            assert_error(await http.post(path, content=body, headers={"Content-Encoding": encoding}), expected)


class Cat(BaseModel):
    """A pet."""

    kind: Literal["cat"]
    discriminator: str = ""


class Dog(BaseModel):
    """Another, with friends of its own kind."""

    kind: Literal["dog"]
    friends: list["Dog"] = []


class Pets(BaseModel):
    """A schema with references of every kind."""

    first: Cat | Dog = Field(discriminator="kind")
    second: Dog | None = Field(default=None, description="the second one")


def test_a_schema_has_no_references() -> None:
    """References are resolved, a type that contains itself is left open, and properties keep their names."""
    schema = request_body(Pets, required=True)["requestBody"]["content"]["application/json"]["schema"]
    assert "$ref" not in str(schema)
    cat, dog = schema["properties"]["first"]["oneOf"]
    assert "discriminator" not in schema["properties"]["first"]
    assert set(cat["properties"]) == {"kind", "discriminator"}
    assert dog["properties"]["friends"]["items"] == {"title": "Dog"}
    assert schema["properties"]["second"]["description"] == "the second one"


async def test_bodies_may_have_any_content_type(idle_http: AsyncClient) -> None:
    """`curl -d` sends one that is not JSON."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await idle_http.post(PATHS[0], content=b'{"dryRun": true}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"), [("/welcome/process-users", b'{"paidOnly": true}'), ("/onboarding", b'{"email": "a@b"}')]
)
async def test_a_body_may_begin_with_a_byte_order_mark(path: str, body: bytes, idle_http: AsyncClient) -> None:
    """Editors and shells of Windows write one."""
    assert (await idle_http.post(path, content=b"\xef\xbb\xbf" + body)).status_code == 202
    assert (await idle_http.post("/welcome/process-users", content=b"\xef\xbb\xbf")).status_code == 202


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/welcome/process-users", '{"dryRun": true, "dryRun": false}'),
        ("/welcome/process-users", '{"dryRun": true, "region": {"dryRun": 1, "dryRun": 2}}'),
        ("/welcome/generate-user", '{"userId": "a", "dryRun": 1, "dryRun": 1}'),
        ("/onboarding", '{"email": "a@b", "dryRun": 1, "dryRun": 2}'),
        ("/runs/cancel", '{"dryRun": "a", "label": "x", "dryRun": "b"}'),
        ("/events/e", '[{"dryRun": 1, "dryRun": 2}]'),
    ],
)
async def test_a_name_that_is_given_twice_is_refused(path: str, body: str, idle: Batchflow) -> None:
    """Wherever it is in a body: of a proxy and this app, one may read the first value and one the last."""
    async with client_of(idle) as http:
        response = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert_error(response, (422, "is given twice", "dryRun"))
    assert await idle.engine.store.batches() == []


async def test_two_names_of_one_parameter_are_refused(idle: Batchflow) -> None:
    """Which of the two holds is nobody's guess."""
    async with client_of(idle) as http:
        response = await http.post("/welcome/process-users", json={"paidOnly": True, "paid_only": False})
    assert_error(response, (422, "are the same parameter", "paid_only"))
    assert await idle.engine.store.batches() == []
