"""The reader of responses: each form of HTTP/1.1, in pieces of any size, and what is not HTTP."""

import pytest

from batchflow.engine.push_response import BrokenResponse, PushResponse, ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n"


def read(
    content: bytes, *, method: str = "POST", most: int = 1_000, piece: int = 0
) -> tuple[PushResponse | None, bool]:
    """The response to bytes that come in pieces and then end, and whether the connection is kept."""
    reader = ResponseReader(method, most)
    size = piece or len(content) or 1
    for start in range(0, len(content), size):
        if (response := reader.feed(content[start : start + size])) is not None:
            assert start + size >= len(content) or not reader.keeps_connection
            return response, reader.keeps_connection
    return reader.end(), reader.keeps_connection


# A response is the same however its bytes are cut: with a length, in chunks, up to the end of the connection, without
# a body. It keeps the connection unless one side says otherwise, or the end is not known.
@pytest.mark.parametrize("piece", [0, 1, 3, 7])
@pytest.mark.parametrize(
    ("content", "status", "body", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
        (b"HTTP/1.1 200\r\ncontent-length: 2, 2\r\n\r\nok", 200, b"ok", True),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n", 500, b"", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, b"x", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\nx", 200, b"x", True),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 No\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nto the end", 200, b"to the end", False),
        (CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", 200, b"abc0123456789", True),
        (CHUNKED + b"1\r\n\r\r\n1 \r\n\n\r\n0\r\nX-Trailer: y\r\n\r\n", 200, b"\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\nHTTP/1.1 204 No\r\n\r\n", 204, b"", True),
    ],
)
def test_a_response_is_read(content: bytes, status: int, body: bytes, kept: bool, piece: int) -> None:
    response, is_kept = read(content, piece=piece)
    assert response is not None
    assert (response.status, response.body, is_kept) == (status, body, kept)


# Headers are as they came, in their order, without the spaces around their values; those of 1xx are not among them.
def test_headers_are_as_they_came() -> None:
    content = b"HTTP/1.1 103 E\r\nlink: x\r\n\r\nHTTP/1.1 204 No\r\nX-A:  b c \r\nx-a:\r\nX-\xc3: 1\r\n\r\n"
    with pytest.raises(BrokenResponse):
        read(content)
    response, _ = read(content.replace(b"X-\xc3: 1", b"X-B: \xc3\xa4\xff"))
    assert response is not None
    assert response.headers == (("X-A", "b c"), ("x-a", ""), ("X-B", "ä\ufffd"))


# The response to HEAD has no body, whatever it says.
def test_the_response_to_head_has_no_body() -> None:
    response, kept = read(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", method="HEAD")
    assert (response, kept) == (PushResponse(200, (("content-length", "5"),)), True)


# A body that is longer than wanted is cut; the connection is not used again, since its rest is still to come.
@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n" + b"x" * 90,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 90,
        CHUNKED + b"5a\r\n" + b"x" * 90,
    ],
)
def test_a_long_body_is_cut(content: bytes, piece: int) -> None:
    response, kept = read(content, most=10, piece=piece)
    assert response is not None
    assert (response.body, kept) == (b"x" * 10, False)


# Bytes after the end of a response are of no response: the connection is not used again.
@pytest.mark.parametrize(
    "content", [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200", CHUNKED + b"0\r\n\r\nHTTP/1.1 200"]
)
def test_a_second_response_is_not_read(content: bytes) -> None:
    assert read(content)[1] is False


# What is not HTTP is no response, and neither is one that ends too early.
@pytest.mark.parametrize(
    "content",
    [
        b"hello\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"2\r\nokay\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000,
        CHUNKED + b"1" * 70_000,
    ],
)
def test_what_is_not_http_is_broken(content: bytes) -> None:
    with pytest.raises(BrokenResponse):
        read(content)


@pytest.mark.parametrize(
    "content", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", CHUNKED + b"3\r\nab"]
)
def test_a_response_that_ends_too_early_is_none(content: bytes) -> None:
    assert read(content)[0] is None
