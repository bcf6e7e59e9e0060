"""An HTTP server that records what is delivered to it, and answers as a test has told it."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, NamedTuple

from tests.waiting import wait_until_sync

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Answer(NamedTuple):
    """The answer to one request; with `held` it is sent once that event is set."""

    status: int = 200
    body: bytes = b"fine"
    headers: Mapping[str, str] = {}
    held: threading.Event | None = None


class Received(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes
    at: int
    """The time in ms."""

    @property
    def message_id(self) -> str:
        return self.headers["upstash-message-id"]

    @property
    def retried(self) -> int:
        return int(self.headers["upstash-retried"])


@dataclass(eq=False)
class Endpoint:
    """One path of the receiver, with what has arrived there. The last of its answers is given again and again."""

    url: str
    answers: Sequence[Answer]
    received: list[Received] = field(default_factory=list[Received])
    under_way: int = 0
    most_under_way: int = 0

    def first(self, number: int, *, timeout: float = 30) -> list[Received]:
        """The first requests, once so many have arrived."""
        wait_until_sync(
            lambda: len(self.received) >= number,
            description=f"{number} requests have arrived, of which {len(self.received)} were there at first",
            timeout=timeout,
        )
        return self.received[:number]

    def only(self) -> Received:
        """The one request that has arrived."""
        (received,) = self.first(1)
        return received


class Receiver:
    """The server, on a free port. Each endpoint is made for one test."""

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._names = count(1)
        self._lock = threading.Lock()
        self._held: list[threading.Event] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def endpoint(self, *answers: Answer, suffix: str = "", query: str = "") -> Endpoint:
        """A new endpoint, which answers 200 unless it is told otherwise."""
        path = f"/endpoint-{next(self._names)}{suffix}"
        self._held += [answer.held for answer in answers if answer.held is not None]
        self._endpoints[path] = made = Endpoint(f"{self.url}{path}{query}", answers or (Answer(),))
        return made

    def close(self) -> None:
        for held in self._held:
            held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def begin(self, received: Received) -> tuple[Endpoint, Answer] | None:
        """Record a request; the answer that is due, None for a path that no test has made."""
        with self._lock:
            endpoint = self._endpoints.get(received.path.partition("?")[0])
            if endpoint is None:
                return None
            answer = endpoint.answers[min(len(endpoint.received), len(endpoint.answers) - 1)]
            endpoint.received.append(received)
            endpoint.under_way += 1
            endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
        return endpoint, answer

    def end(self, endpoint: Endpoint) -> None:
        """Record that a request is about to be answered."""
        with self._lock:
            endpoint.under_way -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # A kept connection that is idle ends with its client.
            timeout = 60

            def handle(self) -> None:
                # A server that is killed leaves its connections.
                with suppress(ConnectionError):
                    super().handle()

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                begun = receiver.begin(Received(self.command, self.path, headers, body, time.time_ns() // 1_000_000))
                if begun is None:
                    self._answer(Answer(404, b"no such endpoint"))
                    return
                endpoint, answer = begun
                if answer.held is not None:
                    answer.held.wait(60)
                receiver.end(endpoint)
                self._answer(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: what arrived is recorded."""

            def _answer(self, answer: Answer) -> None:
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body)
                except OSError:
                    # The client has stopped waiting.
                    self.close_connection = True

        for method in METHODS:
            setattr(Handler, f"do_{method}", Handler.handle_any)
        return Handler
