"""`batchflow server`, as a process."""

import asyncio
import json
import re
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from httpx import ASGITransport, AsyncClient, Response
from qstash import Receiver

from batchflow import Batchflow
from batchflow.cli.http_server import HttpServer, serve_http
from batchflow.cli.process import SignalHandler
from tests.cli.command_line import CommandLine, wait_for_exit
from tests.engine.http_server import serving
from tests.stores.redis_server import served
from tests.waiting import wait_until

Processes = list["subprocess.Popen[str]"]


@dataclass
class Started:
    """A server that runs, and what it has printed."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list[str])

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its output."""
        return dict(it.split("=", 1) for it in self.lines if re.match("QSTASH_[A-Z_]+=", it))

    @property
    def url(self) -> str:
        """Its URL on this machine."""
        return f"http://127.0.0.1:{self.variables['QSTASH_URL'].rpartition(':')[2]}"

    async def publish(self, url: str, token: str, body: str = "") -> Response:
        """Publish a message over HTTP."""
        headers = {"Authorization": f"Bearer {token}"}
        async with AsyncClient() as client:
            return await client.post(f"{self.url}/v2/publish/{url}", headers=headers, content=body)


async def start(command: CommandLine, processes: Processes, *options: str) -> Started:
    """Start a server on a free port and read what it prints."""
    process = command.start("server", "--port", "0", *options)
    processes.append(process)
    assert process.stdout is not None
    started = Started(process)
    while not started.lines or "Ctrl-C stops it" not in started.lines[-1]:
        line = await asyncio.to_thread(process.stdout.readline)
        assert line, process.stderr and process.stderr.read()
        started.lines.append(line.rstrip("\n"))
    return started


async def test_a_server_delivers_signed_messages_and_stops_in_good_order(
    command: CommandLine, processes: Processes
) -> None:
    """What is published with the printed token, on this machine; a later start prints no token, and takes that one."""
    server = await start(command, processes)
    variables = server.variables
    assert list(variables) == [
        "QSTASH_URL",
        "QSTASH_TOKEN",
        "QSTASH_CURRENT_SIGNING_KEY",
        "QSTASH_NEXT_SIGNING_KEY",
    ]
    receiver = Receiver(variables["QSTASH_CURRENT_SIGNING_KEY"], variables["QSTASH_NEXT_SIGNING_KEY"])
    token = variables["QSTASH_TOKEN"]
    async with serving() as sink:
        answer = await server.publish(f"{sink.url}/hook?a=1", token, '{"n": 1}')
        assert answer.is_success, answer.text
        await wait_until(lambda: len(sink.asked) == 1, description="the message is delivered")
        asked = sink.asked[0]
        receiver.verify(
            signature=asked.headers["upstash-signature"], body=asked.body.decode(), url=f"{sink.url}/hook?a=1"
        )
        assert (asked.path, asked.body) == ("/hook?a=1", b'{"n": 1}')
        server.process.send_signal(signal.SIGTERM)
        stopped = await asyncio.to_thread(wait_for_exit, server.process)
        assert (stopped.code, stopped.out, stopped.err) == (0, "Stopping: running work has 10s to end\nStopped\n", "")
        again = await start(command, processes)
        assert list(again.variables) == ["QSTASH_URL"]
        assert token not in "".join(again.lines)
        assert (await again.publish(f"{sink.url}/hook", token)).is_success
        await wait_until(lambda: len(sink.asked) == 2, description="the second message is delivered")


async def test_the_first_curl_can_be_pasted(command: CommandLine, processes: Processes) -> None:
    """It publishes a message to an app of this machine."""
    server = await start(command, processes)
    pasted = "\n".join(server.lines).partition("curl ")[2].partition("\n\n")[0]
    run = await asyncio.to_thread(
        subprocess.run, f"curl -s {pasted}", shell=True, check=True, capture_output=True, text=True
    )
    assert json.loads(run.stdout)["messageId"].startswith("msg_")


async def test_servers_on_one_store_share_tokens_and_a_revoked_one_is_refused(
    command: CommandLine, processes: Processes
) -> None:
    """By all of them, without a restart."""
    first = await start(command, processes)
    second = await start(command, processes)
    token = first.variables["QSTASH_TOKEN"]
    async with serving() as sink:
        assert (await second.publish(sink.url, token)).is_success
        shop = (await asyncio.to_thread(command, "tokens", "add", "shop", "--json")).document
        assert (await first.publish(sink.url, shop["token"])).is_success
        await wait_until(lambda: len(sink.asked) == 2, description="both messages are delivered")
        revoked = await asyncio.to_thread(command, "tokens", "revoke", shop["id"], "--yes")
        assert revoked.code == 0

        async def refused() -> bool:
            return (await first.publish(sink.url, shop["token"])).status_code == 401

        await wait_until(refused, description="the token is refused")
        assert (await first.publish(sink.url, token)).is_success
        workers = await asyncio.to_thread(command, "workers")
        assert workers.out.endswith(" serve messages of QStash\n")


async def test_servers_on_one_redis_share_the_deliveries(
    command: CommandLine, processes: Processes, tmp_path: Path
) -> None:
    """Each message is delivered by one of them, whichever took it."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with served(folder) as redis:
        first = await start(command, processes, "--url", redis.url)
        second = await start(command, processes, "--url", redis.url)
        assert list(second.variables) == ["QSTASH_URL"]
        headers = {"Authorization": f"Bearer {first.variables['QSTASH_TOKEN']}"}
        async with serving() as sink, AsyncClient(headers=headers) as client:
            sent: set[str] = set()
            for server in (first, second):
                items = [{"destination": f"{sink.url}/{number}"} for number in range(20)]
                answer = await client.post(f"{server.url}/v2/batch", json=items)
                sent |= {it["messageId"] for it in answer.json()}
            await wait_until(lambda: len(sink.asked) >= 40, description="all messages are delivered")
            for server in (first, second):
                server.process.send_signal(signal.SIGTERM)
                assert (await asyncio.to_thread(wait_for_exit, server.process)).code == 0
        assert sorted(it.headers["upstash-message-id"] for it in sink.asked) == sorted(sent)


async def test_a_worker_delivers_what_an_app_without_one_has_taken(
    command: CommandLine, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its app may have nothing but a server."""
    command.write("from batchflow import Batchflow\nflow = Batchflow(worker=False)\nserver = flow.server\n")
    processes.append(command.start("worker", command.target, BATCHFLOW_PUSH_ALLOW="loopback"))
    monkeypatch.setenv("BATCHFLOW_PUSH_ALLOW", "")
    flow = Batchflow(worker=False)
    client = AsyncClient(transport=ASGITransport(flow.server), base_url="http://app.test")
    async with serving() as sink, flow, client:
        client.headers["Authorization"] = f"Bearer {await flow.server.tokens.create('shop')}"
        assert (await client.post(f"/v2/publish/{sink.url}", content="hello")).is_success
        await wait_until(lambda: len(sink.asked) == 1, description="the worker has delivered the message")


async def test_a_server_for_others_warns_and_does_not_deliver_to_this_machine(
    command: CommandLine, processes: Processes
) -> None:
    """Unless that is allowed: whoever has a token could reach what only this machine can."""
    server = await start(command, processes, "--host", "0.0.0.0")
    async with serving() as sink:
        sent = await server.publish(sink.url, server.variables["QSTASH_TOKEN"])

        async def failed() -> bool:
            found = (await asyncio.to_thread(command, "dlq", "--json")).document["deadLetters"]
            return [it["dlqId"] for it in found] == [sent.json()["messageId"]]

        await wait_until(failed, description="the message is a dead letter")
        assert sink.asked == []
    server.process.send_signal(signal.SIGINT)
    stopped = await asyncio.to_thread(wait_for_exit, server.process)
    assert stopped.code == 0
    assert stopped.err.startswith("warning: tokens and messages can be read on their way to this server")


def test_a_port_in_use_is_told(command: CommandLine) -> None:
    """In one sentence; no store is made."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        answer = command("server", "--port", port)
    assert answer.is_usage_error(f"cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert not (command.folder / "batchflow.db").exists()


def test_a_network_that_is_none_is_refused(command: CommandLine) -> None:
    """With the option as it is written."""
    answer = command("server", "--port", "0", "--allow", "lan")
    assert answer.is_usage_error("'--allow' cannot be 'lan'; write networks such as")


async def test_idle_connections_are_kept_longer_than_clients_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a client under load meets the end of one: those of JavaScript keep theirs for 4 s."""
    configs: list[uvicorn.Config] = []

    async def serve(server: HttpServer, sockets: list[socket.socket] | None = None) -> None:
        configs.append(server.config)

    monkeypatch.setattr(HttpServer, "serve", serve)
    with socket.create_server(("127.0.0.1", 0)) as listener, SignalHandler(0.0) as signals:
        await serve_http(object(), listener, signals, grace_seconds=0, on_stop=lambda: None)
    assert [it.timeout_keep_alive for it in configs] == [75]
