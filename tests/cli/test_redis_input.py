"""Wrong Redis servers and URLs: one sentence on stderr, exit code 2, no traceback."""

import errno
import http.server
import subprocess
import threading
from collections.abc import Generator

import pytest

from batchflow import Batchflow
from batchflow.errors import BatchflowError, ConfigurationError, StoreError, StoreIncompatible
from batchflow.stores.redis import clients
from batchflow.stores.redis.keys import FIRST_SCHEMA, SCHEMA, prefix
from tests.cli.command_line import CommandLine, wait_for_exit
from tests.stores.redis_server import Server, free_port, served

PASSWORD = "s3cret"

URLS = {
    "http://localhost": "'http://localhost' names no store; write sqlite:///PATH (two more slashes for an absolute "
    "path), sqlite:// or redis://HOST:PORT",
    "redis://:s3cret@localhost:x": "'redis://localhost:…' is not the URL of a Redis server: a port is a number",
    "redis://localhost/first": "'redis://localhost/first' is not the URL of a Redis server: "
    "a database is a number, as in redis://HOST:PORT/0; write %2F for a slash in a password",
}
"""URLs that are wrong before a server is asked."""

SERVERS = {
    "redis://{at}": "redis://{at}/0 does not let us in: it wants a password; correct user and password of the URL",
    "redis://:wr0ng@{at}": "redis://{at}/0 does not let us in: user or password is wrong; "
    "correct user and password of the URL",
    "redis://ada:s3cret@{at}": "redis://{at}/0 does not let us in: user or password is wrong; "
    "correct user and password of the URL",
    "redis://:s3cret@{at}/99": "redis://{at}/99 has no database of this number; name another one, such as 0",
}
"""URLs that a server with a password rejects."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server with a password."""
    with served(tmp_path_factory.mktemp("redis"), "--requirepass", PASSWORD) as started:
        yield started


@pytest.fixture
def own(server: Server) -> str:
    """The URL that it lets in."""
    return f"redis://:{PASSWORD}@127.0.0.1:{server.port}"


class Quiet(http.server.BaseHTTPRequestHandler):
    """Says nothing of what it is asked."""

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def web() -> Generator[str]:
    """A server that speaks HTTP, as a URL."""
    served_ = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=served_.serve_forever)
    thread.start()
    yield f"redis://127.0.0.1:{served_.server_port}"
    served_.shutdown()
    served_.server_close()
    thread.join()


async def refusal(url: str, kind: type[BatchflowError]) -> str:
    """The error of an app with this store."""
    with pytest.raises(kind) as caught:
        flow = Batchflow(url, worker=False)
        try:
            await flow.start()
        finally:
            await flow.stop()
    return str(caught.value)


def refused(command: CommandLine, monkeypatch: pytest.MonkeyPatch, url: str, message: str, code: int = 2) -> None:
    """The error of commands with and without an app."""
    monkeypatch.setenv("BATCHFLOW_URL", url)
    # A worker waits for a server that is not there.
    waits = [] if code == 1 else [("worker", command.target)]
    for words in (*waits, ("run", command.target), ("workers",), ("batches",), ("runs", "--json")):
        answer = command(*words)
        assert (answer.code, answer.out, answer.err) == (code, "", f"error: {message}\n"), words


@pytest.mark.parametrize(("url", "message"), URLS.items(), ids=URLS)
async def test_a_url_that_is_none(url: str, message: str) -> None:
    """The app cannot be made; no sentence shows a password."""
    assert await refusal(url, BatchflowError) == message


@pytest.mark.parametrize(("url", "message"), URLS.items(), ids=URLS)
def test_a_url_that_is_none_on_the_command_line(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    """The same sentence, whatever the command."""
    refused(command, monkeypatch, url, message)


@pytest.mark.parametrize(("url", "message"), SERVERS.items(), ids=SERVERS)
async def test_a_server_that_does_not_let_in(server: Server, url: str, message: str) -> None:
    """The app does not start."""
    at = f"127.0.0.1:{server.port}"
    assert await refusal(url.format(at=at), StoreIncompatible) == message.format(at=at)


@pytest.mark.parametrize(("url", "message"), SERVERS.items(), ids=SERVERS)
def test_a_server_that_does_not_let_the_command_in(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, server: Server, url: str, message: str
) -> None:
    """The same sentence, whatever the command."""
    at = f"127.0.0.1:{server.port}"
    refused(command, monkeypatch, url.format(at=at), message.format(at=at))


async def test_a_server_that_is_no_redis(web: str) -> None:
    """It answers something else."""
    assert await refusal(web, StoreIncompatible) == (
        f"{web}/0 does not answer as Redis does; give the URL of a Redis server"
    )


def test_a_server_that_is_no_redis_on_the_command_line(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, web: str
) -> None:
    """The same sentence, whatever the command."""
    refused(command, monkeypatch, web, f"{web}/0 does not answer as Redis does; give the URL of a Redis server")


@pytest.mark.parametrize("namespace", ["a b", "a{b", "}", ""])
def test_a_namespace_that_is_none(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, own: str, namespace: str
) -> None:
    """Before the server is asked, in Python as on the command line."""
    monkeypatch.setenv("BATCHFLOW_NAMESPACE", namespace)
    message = f"a namespace cannot be {namespace!r}; write a name without braces and spaces, such as 'batchflow'"
    with pytest.raises(ConfigurationError) as caught:
        Batchflow(own)
    assert str(caught.value) == message
    refused(command, monkeypatch, own, message)


async def test_another_version_of_the_namespace(server: Server, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older program is refused by what a newer one has made, and a newer one by what an older one has made."""
    place = f"redis://127.0.0.1:{server.port}/0"
    for schema, message in (
        (
            SCHEMA + 1,
            f"was made by a newer batchflow (schema {SCHEMA + 1}, this one knows {SCHEMA}); "
            "upgrade this one, or name another namespace with BATCHFLOW_NAMESPACE",
        ),
        (
            FIRST_SCHEMA - 1,
            f"was made by a batchflow before 0.1.0 (schema {FIRST_SCHEMA - 1}), which this one does not read; let that "
            "version finish what is in it, save which items are processed with 'batchflow ledger export', name another "
            "namespace with BATCHFLOW_NAMESPACE, and take them over with 'batchflow ledger import'",
        ),
    ):
        name = f"made-by-{schema}"
        monkeypatch.setenv("BATCHFLOW_NAMESPACE", name)
        with server.client(PASSWORD) as client:
            client.hset(f"{prefix(name)}meta", "schema", str(schema))
        assert await refusal(own, StoreIncompatible) == f"the namespace '{name}' of {place} {message}"
        monkeypatch.setenv("BATCHFLOW_NAMESPACE", f"beside-{schema}")
        async with Batchflow(own, worker=False) as beside:
            assert await beside.workers() == []


def test_another_version_of_the_namespace_on_the_command_line(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, server: Server, own: str
) -> None:
    """Nothing of it is touched but a counter of who has asked."""
    monkeypatch.setenv("BATCHFLOW_NAMESPACE", "other")
    meta = f"{prefix('other')}meta"
    with server.client(PASSWORD) as client:
        client.hset(meta, "schema", "0")
        message = (
            f"the namespace 'other' of redis://127.0.0.1:{server.port}/0 was made by a batchflow before 0.1.0 "
            "(schema 0), which this one does not read; let that version finish what is in it, save which items are "
            "processed with 'batchflow ledger export', name another namespace with "
            "BATCHFLOW_NAMESPACE, and take them over with 'batchflow ledger import'"
        )
        refused(command, monkeypatch, own, message)
        assert set(client.hgetall(meta)) == {"schema", "stores"}
        assert list(client.scan_iter(f"{prefix('other')}*")) == [meta]


def test_a_redis_that_is_too_old(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, server: Server, own: str
) -> None:
    """With its version, and the one that is needed."""
    monkeypatch.setattr(clients, "OLDEST_VERSION", (99, 1))
    with server.client(PASSWORD) as client:
        version = client.info("server")["redis_version"]
    place = f"redis://127.0.0.1:{server.port}/0"
    refused(command, monkeypatch, own, f"{place} is Redis {version}; batchflow needs 6.2 or newer")


def test_a_server_that_is_not_there_may_come(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1: the same command may do at another time."""
    at = f"127.0.0.1:{free_port()}"
    message = (
        f"redis://{at}/0 cannot be reached: Error {errno.ECONNREFUSED} connecting to {at}. Connection refused; "
        "start the server, or correct the URL"
    )
    refused(command, monkeypatch, f"redis://{at}", message, code=1)


async def test_a_server_that_is_not_there_is_told_in_one_sentence() -> None:
    """With what to do about it."""
    said = await refusal(f"redis://127.0.0.1:{free_port()}", StoreError)
    assert said.endswith("; start the server, or correct the URL")


def test_processes_of_a_worker_tell_a_wrong_password_once(command: CommandLine, server: Server) -> None:
    """No process is started for it, and the URL that is shown has no password."""
    at = f"127.0.0.1:{server.port}"
    wrong = wait_for_exit(
        command.start("worker", command.target, "--processes", "3", BATCHFLOW_URL=f"redis://:wr0ng@{at}")
    )
    message = SERVERS["redis://:wr0ng@{at}"].format(at=at)
    assert (wrong.code, wrong.out, wrong.err) == (2, "", f"error: {message}\n")


def test_a_worker_does_not_show_its_password(
    command: CommandLine, server: Server, own: str, processes: list["subprocess.Popen[str]"]
) -> None:
    """In what it says of itself."""
    processes.append(worker := command.start("worker", command.target, BATCHFLOW_URL=own))
    assert worker.stdout is not None
    assert worker.stdout.readline() == (
        f"Working for greet at redis://127.0.0.1:{server.port}/0, namespace 'batchflow' (new); Ctrl-C stops it\n"
    )
    worker.terminate()
    assert wait_for_exit(worker).code == 0
