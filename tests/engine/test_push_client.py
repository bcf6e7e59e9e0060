"""The client that pushes posts, over real connections: what it sends and reads, and which addresses it refuses."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from batchflow.engine import push_client
from batchflow.engine.push_client import MAX_RESPONSE_BYTES, HttpPushClient, PushError, PushRequest
from batchflow.engine.push_connection import AddressInfo, Resolve
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_settings import PushSettings
from batchflow.errors import ConfigurationError
from tests.engine.http_server import serving
from tests.waiting import wait_until

LOOPBACK = PushSettings.of(allow="loopback")


class Names:
    """Resolves names to the addresses that it is given, one call after the other; the last one from then on."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[AddressInfo]:
        self.asked.append(host)
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]


@asynccontextmanager
async def client(
    settings: PushSettings = LOOPBACK, *, resolve: Resolve | None = None, max_bytes: int = MAX_RESPONSE_BYTES
) -> AsyncGenerator[HttpPushClient]:
    opened = HttpPushClient(settings, resolve=resolve, max_bytes=max_bytes)
    try:
        yield opened
    finally:
        await opened.close()


def request(url: str, *headers: tuple[str, str], method: str = "POST", body: bytes = b"", ms: int = 5_000) -> Any:
    return PushRequest(method, url, headers, body, ms)


async def refusal(url: str, settings: PushSettings, resolve: Resolve | None = None) -> PushError:
    async with client(settings, resolve=resolve) as pushes:
        with pytest.raises(PushError) as caught:
            await pushes.send(request(url))
    return caught.value


# What is given is sent, byte for byte and in its order, and nothing else but the headers that HTTP needs.
async def test_only_the_given_headers_are_sent() -> None:
    async with serving() as server, client() as pushes:
        headers = (("Content-Type", "text/x"), ("X-One", "a"), ("X-One", "b"), ("User-Agent", "Upstash-QStash"))
        await pushes.send(request(f"{server.url}/a%2Fb//c?q=%20+x", *headers, body=b"\xff{}"))
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/a%2Fb//c?q=%20+x", b"\xff{}")
    assert set(asked.headers) == {"host", "content-type", "content-length", "x-one", "user-agent"}


# Without a body and headers none are made up.
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_a_request_without_a_body_has_no_content_type(method: str) -> None:
    async with serving() as server, client() as pushes:
        await pushes.send(request(server.url, method=method))
    assert set(server.asked[0].headers) <= {"host", "content-length"}
    assert server.asked[0].method == method


# The response is read as it is: repeated headers stay apart, and a compressed body stays compressed.
async def test_a_response_is_read_as_it_is() -> None:
    answer = "418 Teapot\r\nx-thing: a\r\nX-Thing: b\r\ncontent-encoding: gzip"
    async with serving((answer, b"not gzip")) as server, client() as pushes:
        response = await pushes.send(request(server.url))
    assert (response.status, response.body) == (418, b"not gzip")
    assert [value for name, value in response.headers if name.lower() == "x-thing"] == ["a", "b"]


# A redirect is a response like others: its target is not asked, be it private or not.
async def test_a_redirect_is_not_followed() -> None:
    async with (
        serving() as target,
        serving((f"302 Found\r\nlocation: {target.url}", b"")) as server,
        client() as pushes,
    ):
        assert (await pushes.send(request(server.url))).status == 302
    assert not target.asked


# A cookie of one response is in no later request.
async def test_cookies_are_not_kept() -> None:
    async with serving(("200 OK\r\nset-cookie: a=b; path=/", b"")) as server, client() as pushes:
        await pushes.send(request(server.url))
        await pushes.send(request(server.url))
    assert "cookie" not in server.asked[1].headers


# Of a long body the first megabyte is kept, and the rest is not read.
async def test_a_long_response_is_cut() -> None:
    async with serving(("200 OK", b"x" * 100_000)) as server, client(max_bytes=1_000) as pushes:
        assert (await pushes.send(request(server.url))).body == b"x" * 1_000
        assert (await pushes.send(request(server.url))).status == 200


# An answer that does not come within the timeout is a 504, with a sentence that has no query.
async def test_a_timeout_is_a_504() -> None:
    async with serving(silent=True) as server, client() as pushes:
        with pytest.raises(PushError, match=r"^no answer of http://127.0.0.1:\d+/x\?… within 50ms$") as caught:
            await pushes.send(request(f"{server.url}/x?token=secret", ms=50))
    assert (caught.value.status, caught.value.final) == (504, False)


# Failures of the network are a 503 that is tried again: closed connections, refused ones, unknown hosts, broken HTTP.
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:1/a?b=secret", "no answer of http://127.0.0.1:1/a?…: Connection refused"),
        ("http://nowhere.invalid/", "no answer of http://nowhere.invalid/: its host is not known"),
    ],
)
async def test_no_connection_is_a_503(url: str, sentence: str) -> None:
    failed = await refusal(url, LOOPBACK)
    assert (str(failed), failed.status, failed.final) == (sentence, 503, False)


async def test_a_broken_answer_is_a_503() -> None:
    async with serving(cut=True) as server:
        failed = await refusal(server.url, LOOPBACK)
        assert (str(failed), failed.status) == (f"no answer of {server.url}: it has closed the connection", 503)
    async with serving(("abc", b"")) as server:
        failed = await refusal(server.url, LOOPBACK)
        assert (str(failed), failed.status) == (f"the answer of {server.url} cannot be read", 503)


# A certificate that nobody has signed is a 503 with a sentence.
async def test_an_unknown_certificate_is_a_503() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        failed = await refusal(url, LOOPBACK)
    assert (str(failed), failed.status) == (f"no answer of {url}: its certificate is not valid", 503)


# Addresses that are not public are refused for good, in each form: nobody is asked.
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fec0::1]",
        "[ff02::1]",
    ],
)
async def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    async with serving() as server:
        failed = await refusal(f"http://{host}:{server.url.rpartition(':')[2]}/", PushSettings())
        assert failed.final
        assert not server.asked


# A name is refused by the address that it is resolved to, mapped to IPv6 or not.
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
async def test_names_of_addresses_that_are_not_public_are_refused(address: str) -> None:
    names = Names(address)
    failed = await refusal("http://public.example/x?a=secret", PushSettings(), names)
    assert names.asked == ["public.example"]
    assert failed.final
    assert str(failed) == (
        "http://public.example/x?… was not asked: its address is not public; the server may allow its network"
    )


# A name that is resolved to a public address first and to a private one for the connection is refused: each
# connection is checked by the address that it is made to.
async def test_a_name_that_is_rebound_is_refused() -> None:
    async with serving() as server:
        port = server.url.rpartition(":")[2]
        names = Names("127.0.0.2", "127.0.0.1")
        settings = PushSettings.of(allow="127.0.0.2/32")
        async with client(settings, resolve=names) as pushes:
            with pytest.raises(PushError, match="Connection refused"):
                await pushes.send(request(f"http://public.example:{port}/"))
            with pytest.raises(PushError, match="was not asked"):
                await pushes.send(request(f"http://public.example:{port}/"))
        assert len(names.asked) == 2
        assert not server.asked


# What the settings allow is asked, in the named networks only.
@pytest.mark.parametrize(
    ("allow", "allowed", "refused"),
    [
        ("", ["8.8.8.8", "2606:4700::1111"], ["127.0.0.1", "::1", "10.0.0.1"]),
        ("loopback", ["127.9.9.9", "::1", "::ffff:127.0.0.1"], ["10.0.0.1", "fc00::1", "169.254.169.254"]),
        ("private", ["10.0.0.1", "192.168.0.9", "fc00::1"], ["127.0.0.1", "::1", "169.254.169.254"]),
        ("Private, 127.0.0.0/30", ["127.0.0.1", "10.0.0.1"], ["127.0.0.4"]),
        ("169.254.169.254", ["169.254.169.254"], ["169.254.169.253"]),
    ],
)
def test_the_settings_allow_networks(allow: str, allowed: list[str], refused: list[str]) -> None:
    settings = PushSettings.of(allow=allow)
    assert [it for it in allowed if not settings.allows(it)] == []
    assert [it for it in refused if settings.allows(it)] == []


# Requests to a host of the egress map go to another address, with its Host header, path and query.
@pytest.mark.parametrize("entry", ["api.example.com", "API.example.com:443", "api.example.com:443"])
async def test_egress_goes_to_another_address(entry: str) -> None:
    async with serving() as server, client(PushSettings.of(egress=f"{entry}={server.url}, x=http://y:1")) as pushes:
        assert (await pushes.send(request("https://api.example.com/a%2Fb?c=%20d"))).status == 200
    (asked,) = server.asked
    assert (asked.path, asked.headers["host"]) == ("/a%2Fb?c=%20d", "api.example.com")


# An entry with a port is for this port only.
async def test_egress_of_a_port_is_for_this_port() -> None:
    async with serving() as server, client(PushSettings.of(egress=f"localhost:81={server.url}")) as pushes:
        assert (await pushes.send(request("http://localhost:81/"))).status == 200
        with pytest.raises(PushError, match="not public"):
            await pushes.send(request("http://localhost:82/"))
    assert server.asked[0].headers["host"] == "localhost:81"


# With a proxy it is asked for each URL, and addresses that are not public are refused all the same.
async def test_a_proxy_is_asked_for_all_hosts() -> None:
    async with serving() as server, client(PushSettings.of(egress=f"proxy={server.url}")) as pushes:
        assert (await pushes.send(request("http://nowhere.invalid/a?b"))).status == 200
        for host in ("10.0.0.1", "127.1", "0x7f000001", "[::1]"):
            with pytest.raises(PushError, match="not public"):
                await pushes.send(request(f"http://{host}/"))
    (asked,) = server.asked
    assert (asked.path, asked.headers["host"]) == ("http://nowhere.invalid/a?b", "nowhere.invalid")


# Settings that are not valid are refused in one sentence, without passwords.
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"allow": "10.0.0.0/33"}, "'allow' cannot be '10.0.0.0/33'; write networks such as"),
        ({"egress": "a.example"}, "'BATCHFLOW_EGRESS' cannot be 'a.example'; write host="),
        ({"egress": "a=https://b"}, "'BATCHFLOW_EGRESS' cannot be 'a=https://b'; write host="),
        ({"egress": "proxy=http://me:secret@b/c"}, "'BATCHFLOW_EGRESS' cannot be 'proxy=http://b/c'; write host="),
        ({"egress": "a=http://b,a=http://c"}, "'BATCHFLOW_EGRESS' names 'a' twice"),
        ({"egress": "a/b=http://b"}, "'BATCHFLOW_EGRESS' cannot be 'a/b=http://b'; write host="),
    ],
)
def test_settings_that_are_not_valid_are_refused(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PushSettings.of(**options)
    assert str(caught.value).startswith(sentence)


# A URL or header that would be another request is not sent, and not tried again.
@pytest.mark.parametrize(
    ("path", "headers"), [("/a b", ()), ("/a\r\nX: y", ()), ("/", [("X-A", "b\r\nX: y")]), ("/", [("X\r\n", "y")])]
)
async def test_what_would_be_another_request_is_not_sent(path: str, headers: list[tuple[str, str]]) -> None:
    async with serving() as server, client() as pushes:
        with pytest.raises(PushError) as caught:
            await pushes.send(request(f"{server.url}{path}", *headers))
        assert caught.value.final
        assert not server.asked


@asynccontextmanager
async def holding() -> AsyncGenerator[tuple[str, list[int], Callable[[], None]]]:
    """A server that answers when it is told to; notes the number of requests under way at the beginning of each."""
    told, active, seen = asyncio.Event(), 0, list[int]()
    connections: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal active
        connections.add(writer)
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            active += 1
            seen.append(active)
            await told.wait()
            active -= 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", seen, told.set
        for writer in connections:
            writer.close()


# At most so many requests to a host are under way; others wait, for which their timeout does not count, and use the
# connections again.
async def test_further_requests_to_a_host_wait_without_using_up_their_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_client, "MAX_CONNECTIONS", 3)
    async with holding() as (url, seen, release), client() as pushes:
        first = [asyncio.create_task(pushes.send(request(url, method="GET", ms=60_000))) for _ in range(3)]
        await wait_until(lambda: len(seen) == 3, description="three requests are under way")
        later = [asyncio.create_task(pushes.send(request(url, method="GET", ms=1_500))) for _ in range(5)]
        begun = asyncio.get_running_loop().time()
        await wait_until(lambda: asyncio.get_running_loop().time() > begun + 1.6, description="their timeout is over")
        assert (len(seen), [it.done() for it in later]) == (3, [False] * 5)
        release()
        assert [it.status for it in await asyncio.gather(*first, *later)] == [200] * 8
    assert max(seen) == 3


# Headers, bodies and queries are in no repr.
def test_requests_and_responses_do_not_show_secrets() -> None:
    shown = repr(request("https://u:p@a.example/?k=secret", ("Authorization", "secret"), body=b"secret"))
    shown += repr(PushResponse(200, (("set-cookie", "secret"),), b"secret"))
    assert shown == "PushRequest(POST https://a.example/?…)PushResponse(200, 6 bytes)"
    assert "secret" not in repr(PushSettings.of(egress="proxy=http://me:secret@proxy:1"))


# Names whose name servers are silent leave room for others.
async def test_slow_lookups_do_not_keep_other_hosts_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, look_up, asked = threading.Event(), socket.getaddrinfo, list[str]()

    def silent(host: str, *args: Any, **named: Any) -> Any:
        if host.startswith("silent"):
            asked.append(host)
            answered.wait(30)
            raise socket.gaierror
        return look_up(host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    async with serving() as server, client() as pushes:
        slow = [asyncio.create_task(pushes.send(request(f"http://silent{it}.example/"))) for it in range(40)]
        try:
            await wait_until(lambda: bool(asked), description="the lookups have begun")
            assert (await pushes.send(request(server.url))).status == 200
        finally:
            answered.set()
            await asyncio.gather(*slow, return_exceptions=True)
