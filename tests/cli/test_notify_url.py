"""`batchflow run --notify-url`: the command sends the notification before it exits, and shows what became of it."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.cli.command_line import CommandLine


@contextmanager
def receiver(status: int) -> Generator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers with this status, and is to be asked again at once: its URL and what it has received."""
    received: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def line_of(out: str, name: str) -> str:
    """The text of a row."""
    (found,) = [line.split(None, 1)[1] for line in out.splitlines() if line.startswith(f"{name} ")]
    return found


def test_run_waits_until_its_notification_is_sent(command: CommandLine) -> None:
    """Perhaps no other process would send it."""
    with receiver(204) as (url, received):
        assert command("run", command.target, "--notify-url", f"{url}/ended?token=t0ken").code == 0
    (ended,) = received
    assert (ended["workflow"], ended["success"], ended["counts"]["succeeded"]) == ("greet", True, 12)
    shown = line_of(command("batches", "show", ended["batchId"]).out, "notify_url")
    assert shown.startswith(f"{url}/ended?…: sent at ")
    document = command("batches", "show", ended["batchId"], "--json").document
    assert "t0ken" not in str(document)
    assert document["notification"]["state"] == "succeeded"


def test_run_and_show_say_that_a_notification_has_failed(command: CommandLine) -> None:
    """The batch has succeeded all the same: the exit code is 0."""
    with receiver(500) as (url, received):
        answer = command("run", command.target, "--notify-url", f"{url}/ended")
    assert (answer.code, len(received)) == (0, 4)
    failed = f"failed: {url}/ended answered 500"
    assert line_of(answer.out, "notify_url") == failed
    assert line_of(command("batches", "show", received[0]["batchId"]).out, "notify_url") == f"{url}/ended: {failed}"
    assert "notify_url failed" in command("batches").out


@pytest.mark.parametrize("url", ["hooks.example.com", "https://user:s3cr3t@ho st"])
def test_a_notify_url_that_is_not_one_is_a_usage_error(command: CommandLine, url: str) -> None:
    """Named as the command names it; nothing is started."""
    answer = command("run", command.target, "--notify-url", url)
    assert answer.is_usage_error("'--notify-url' cannot be")
    assert "s3cr3t" not in answer.err
    assert "No batches" in command("batches").out
