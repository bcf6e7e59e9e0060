"""Responses over HTTP/1.1, read as their bytes come."""

import re
from typing import Literal, NamedTuple

from batchflow.wire.envelope import HeaderPairs

MAX_HEAD_BYTES = 65_536
"""The most bytes of a response's status and headers."""

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n]*)?")
_LENGTH = re.compile("[0-9]{1,15}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class PushResponse(NamedTuple):
    """A response with any status. Its body may be cut."""

    status: int
    headers: HeaderPairs = ()
    body: bytes = b""

    def __repr__(self) -> str:
        return f"PushResponse({self.status}, {len(self.body)} bytes)"


class BrokenResponse(Exception):
    """The bytes that have come are not a response of HTTP."""


class ResponseReader:
    """Reads the response to one request with `method`; of its body `max_bytes`, after which it is complete."""

    def __init__(self, method: str, max_bytes: int) -> None:
        self.keeps_connection = False
        """True if the whole response was read, and the server keeps the connection open."""
        self._has_body = method != "HEAD"
        self._max_bytes = max_bytes
        self._left = bytearray()
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._is_persistent = False
        self._body = bytearray()
        self._until: Literal["head", "length", "chunk size", "chunk", "chunk end", "trailer", "close"] = "head"
        self._length = 0

    @property
    def has_begun(self) -> bool:
        """True if some of it has come."""
        return self._status > 0 or bool(self._left)

    def feed(self, data: bytes) -> PushResponse | None:
        """Read further bytes; the response once it is complete.

        Raises:
            BrokenResponse: it is not HTTP.
        """
        self._left += data
        while self._until == "head":
            end = self._left.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD_BYTES:
                return self._check_size()
            head = bytes(self._left[:end])
            del self._left[: end + 4]
            self._read_head(head)
        match self._until:
            case "length":
                return self._read_length()
            case "close":
                self._body += self._left
                self._left.clear()
                return self._cut() if len(self._body) >= self._max_bytes else None
            case _:
                return self._read_chunks()

    def end(self) -> PushResponse | None:
        """The response if it is complete with the end of the connection."""
        return self._response() if self._until == "close" else None

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.decode(errors="replace").split("\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise BrokenResponse
        self._status = int(status[2])
        headers: list[tuple[str, str]] = []
        framing: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or _NAME.fullmatch(name) is None:
                raise BrokenResponse
            value = value.strip(" \t")
            headers.append((name, value))
            lower = name.lower()
            if lower in ("content-length", "transfer-encoding", "connection"):
                framing[lower] = f"{framing[lower]},{value}" if lower in framing else value
        if self._status == 101:
            raise BrokenResponse
        if self._status < 200:
            return
        self._headers = headers
        options = {it.strip() for it in framing.get("connection", "").lower().split(",")}
        self._is_persistent = "close" not in options if status[1] == "1" else "keep-alive" in options
        self._read_framing(framing)

    def _read_framing(self, framing: dict[str, str]) -> None:
        codings = framing.get("transfer-encoding", "").lower()
        lengths = {it.strip() for it in framing.get("content-length", "").split(",")} - {""}
        if not self._has_body or self._status in (204, 304):
            self._until, self._length = "length", 0
        elif codings:
            self._until = "chunk size" if codings.rpartition(",")[2].strip() == "chunked" else "close"
        elif lengths:
            (length, *others) = lengths
            if others or _LENGTH.fullmatch(length) is None:
                raise BrokenResponse
            self._until, self._length = "length", int(length)
        else:
            self._until = "close"

    def _read_length(self) -> PushResponse | None:
        self._body += self._left
        self._left.clear()
        if len(self._body) >= self._length and self._length <= self._max_bytes:
            self.keeps_connection = self._is_persistent and len(self._body) == self._length
            del self._body[self._length :]
            return self._response()
        return self._cut() if len(self._body) >= self._max_bytes else None

    def _read_chunks(self) -> PushResponse | None:
        while True:
            if self._until == "chunk":
                part = self._left[: self._length]
                del self._left[: len(part)]
                self._body += part
                self._length -= len(part)
                if len(self._body) >= self._max_bytes:
                    return self._cut()
                if self._length:
                    return None
                self._until = "chunk end"
            end = self._left.find(b"\r\n")
            if end < 0:
                return self._check_size()
            line = bytes(self._left[:end])
            del self._left[: end + 2]
            if self._until == "chunk size":
                if (size := _CHUNK_SIZE.fullmatch(line)) is None:
                    raise BrokenResponse
                self._length = int(size[1], 16)
                self._until = "chunk" if self._length else "trailer"
            elif self._until == "chunk end":
                if line:
                    raise BrokenResponse
                self._until = "chunk size"
            elif not line:
                self.keeps_connection = self._is_persistent and not self._left
                return self._response()

    def _check_size(self) -> None:
        if len(self._left) > MAX_HEAD_BYTES:
            raise BrokenResponse

    def _cut(self) -> PushResponse:
        del self._body[self._max_bytes :]
        return self._response()

    def _response(self) -> PushResponse:
        return PushResponse(self._status, tuple(self._headers), bytes(self._body))
