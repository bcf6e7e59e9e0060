"""What a call shares with others, redirects, connections and proxies that fail, and `Retry-After`."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from batchflow import Batchflow, NoParams, StepFailed, WorkflowContext
from batchflow.core.call import CallRequest, CallResult, call_request_codec
from batchflow.core.duration import MAX_DURATION_MS
from batchflow.core.secrets import masked_text
from batchflow.engine.caller import retry_after_ms
from batchflow.serve.calls import CallResponse
from batchflow.testing import ManualClock, drive
from tests.engine.http_server import Server, serving

CLOCK = ManualClock()


@pytest.fixture
async def flow() -> AsyncGenerator[Batchflow]:
    app = Batchflow("sqlite://", clock=CLOCK, worker=False)
    await app.start()
    yield app
    await app.stop()


async def status_of(flow: Batchflow, route: str, url: str, **options: Any) -> int:
    """The status of the answer to a call."""

    @flow.serve(route)
    async def asks(ctx: WorkflowContext[NoParams]) -> int:
        answer: CallResponse[Any] = await ctx.call("ask", url, **options)
        return answer.status

    run = await asks.trigger(NoParams())
    await drive(flow, CLOCK)
    return await run.wait()


async def failure(flow: Batchflow, url: str, **options: Any) -> StepFailed:
    """The error of a call that has no answer."""
    errors: list[StepFailed] = []

    @flow.serve("/asks")
    async def asks(ctx: WorkflowContext[NoParams]) -> None:
        try:
            await ctx.call("ask", url, **options)
        except StepFailed as error:
            errors.append(error)

    await asks.trigger(NoParams())
    await drive(flow, CLOCK)
    return errors[-1]


async def test_a_header_is_sent_without_blanks_around_it_and_in_latin_1(flow: Batchflow) -> None:
    """As other clients do: blanks around a value are not part of it."""
    async with serving() as server:
        await status_of(flow, "/a", server.url, headers={"X-Name": " Zoë\t", "content-length": "0"})
    assert server.asked[0].headers["x-name"] == "Zoë"


def redirect(server: Server, path: str, *headers: str) -> tuple[str, bytes]:
    return ("\r\n".join(["302 Found", f"location: {server.url}{path}", *headers]), b"")


async def test_cookies_of_a_call_are_not_sent_with_another(flow: Batchflow) -> None:
    """Neither with the call of another run nor with the next attempt; those of a redirect go with the same attempt."""
    async with serving() as server:
        login, busy = redirect(server, "/home", "set-cookie: session=a"), ("503 Busy\r\nset-cookie: busy=1", b"")
        server.answers = [login, busy, login, ("200 OK\r\nset-cookie: home=1", b""), ("200 OK", b"")]
        assert await status_of(flow, "/first", f"{server.url}/login", retries=1) == 200
        assert await status_of(flow, "/second", f"{server.url}/data") == 200
    assert [(asked.path, asked.headers.get("cookie")) for asked in server.asked] == [
        ("/login", None),
        ("/home", "session=a"),
        ("/login", None),
        ("/home", "session=a"),
        ("/data", None),
    ]


CREDENTIALS = {"authorization": "Bearer x", "cookie": "a=1", "X-Api-Key": "k", "X-Auth-Token": "t"}


async def test_credentials_are_not_sent_to_another_host(flow: Batchflow) -> None:
    """A redirect to another origin loses the headers that name a credential, and no others."""
    async with serving(("200 OK", b"")) as other, serving() as server:
        server.answers = [redirect(server, "/here"), redirect(other, "/there")]
        headers = {**CREDENTIALS, "x-mine": "1", "idempotency-key": "7"}
        await status_of(flow, "/a", server.url, headers=headers)
    named = {name.lower() for name in headers}
    assert named <= server.asked[1].headers.keys()
    assert named & other.asked[0].headers.keys() == {"x-mine", "idempotency-key"}


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("file:///etc/passwd", "/?… redirects to something other than an HTTP URL"),
        ("http://h:s3cr3t", "/?… redirects to something that is not a URL"),
        ("/?token=s3cr3t", "/?… redirects more than 20 times"),
    ],
)
async def test_a_redirect_that_leads_nowhere_is_not_an_answer(flow: Batchflow, location: str, sentence: str) -> None:
    """The error names the URL that redirects, and does not show its target."""
    async with serving((f"302 Found\r\nlocation: {location}", b"")) as server:
        error = await failure(flow, f"{server.url}/?token=s3cr3t")
    assert error.error.endswith(sentence)
    assert "s3cr3t" not in str(error)


async def test_a_kept_connection_that_is_closed_is_replaced(flow: Batchflow) -> None:
    """The request is repeated at once on a new connection, with the same key, and no attempt is counted."""
    async with serving(("200 OK", b"yes"), keeps=True) as server:
        assert await status_of(flow, "/first", server.url) == 200
        assert await status_of(flow, "/second", server.url, body={"a": 1}) == 200
    first, closed, again = server.asked
    assert first.headers["idempotency-key"] != closed.headers["idempotency-key"]
    assert closed == again


async def test_a_new_connection_that_is_closed_counts_as_an_attempt(flow: Batchflow) -> None:
    """Nothing was wrong with the connection: the server has failed."""
    async with serving(cut=True) as server:
        assert (await failure(flow, server.url)).attempts == 1
    assert len(server.asked) == 1


PROXY = "http://me:s3cr3t@127.0.0.1:1"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"HTTP_PROXY": PROXY},
            "no answer of http://x.test/?…: the proxy 127.0.0.1:1 (of HTTP_PROXY) fails: ConnectError: "
            "Connection refused",
        ),
        (
            {"ALL_PROXY": "socks5://me:s3cr3t@h:1"},
            "ALL_PROXY names the SOCKS proxy socks5://h:1, which needs the package",
        ),
        ({"HTTPS_PROXY": "foo://me:s3cr3t@h:1"}, "HTTPS_PROXY names foo://h:1, which is not the URL of a proxy"),
        ({"HTTP_PROXY": "http://me:s3cr3t@h:99999"}, "HTTP_PROXY is not a URL"),
        ({"SSL_CERT_FILE": "/no/such"}, "SSL_CERT_FILE names /no/such, which has no certificates that can be read"),
    ],
)
async def test_a_fault_of_this_side_is_not_laid_on_the_server(
    flow: Batchflow, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    """The proxy or variable is named, without its password; what cannot pass is not tried again."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = await failure(flow, "http://x.test/?token=s3cr3t", retries=2)
    assert sentence in error.error
    assert "s3cr3t" not in str(error)
    assert error.attempts == (3 if "no answer" in sentence else 1)


async def test_a_proxy_that_refuses_is_named(flow: Batchflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to CONNECT is the proxy's, not the server's."""
    async with serving(("407 Proxy Authentication Required", b"")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        error = await failure(flow, "https://x.test/")
    where = proxy.url.removeprefix("http://")
    assert error.error == (
        f"no answer of https://x.test/: the proxy {where} (of HTTPS_PROXY) fails: "
        "ProxyError: 407 Proxy Authentication Required"
    )


async def test_a_server_that_fails_behind_a_proxy_is_not_the_proxys_fault(
    flow: Batchflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are named: which of them has closed the connection cannot be seen."""
    async with serving(cut=True) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        error = await failure(flow, "http://x.test/")
    where = proxy.url.removeprefix("http://")
    assert error.error.startswith(f"no answer of http://x.test/ through the proxy {where} (of HTTP_PROXY): Remote")


async def test_texts_of_lower_layers_show_no_secret(flow: Batchflow) -> None:
    """A server that answers with something other than HTTP may quote what it was sent."""
    async with serving(keeps=True) as server:
        server.part = b"Bearer s3cr3t-s3cr3t ?token=s3cr3t\r\n\r\n"
        server.answers = [(f"x\r\n{server.part.decode()}", b"")]
        error = await failure(flow, f"{server.url}/?token=s3cr3t", headers={"authorization": "Bearer s3cr3t-s3cr3t"})
    assert "RemoteProtocolError" in error.error
    assert "s3cr3t" not in str(error)


async def test_httpx_logs_no_secret_of_a_call(flow: Batchflow, caplog: pytest.LogCaptureFixture) -> None:
    """The lines of the app's own client stay as they are."""
    caplog.set_level("DEBUG")
    async with serving(("200 OK\r\nset-cookie: session=s3cr3t", b"")) as server:
        address = server.url.removeprefix("http://")
        await status_of(flow, "/a", f"http://me:s3cr3t@{address}/?token=s3cr3t")
        assert "s3cr3t" not in caplog.text
        async with httpx.AsyncClient() as client:
            await client.get(f"{server.url}/?page=2")
    ours, theirs = (record.getMessage() for record in caplog.records if record.name == "httpx")
    assert f"GET {server.url}/?… " in ours
    assert f"GET {server.url}/?page=2 " in theirs


NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("header", "date", "delay"),
    [
        ("30", "", 30_000),
        (" 30 ", "", 30_000),
        ("30.5", "", 30_500),
        ("172800", "", 172_800_000),
        ("9" * 400, "", MAX_DURATION_MS),
        ("Tue, 14 Nov 2023 22:15:20 GMT", "", 120_000),
        ("Tue, 14 Nov 2023 22:15:20 GMT", "Tue, 14 Nov 2023 22:14:20 GMT", 60_000),
        ("Tue, 14 Nov 2023 22:15:20 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 120_000),
        ("Tuesday, 14-Nov-23 22:15:20 GMT", "", 120_000),
        ("Tue Nov 14 22:15:20 2023", "", 120_000),
        ("Tue, 14 Nov 2023 22:00:00 GMT", "", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "", MAX_DURATION_MS),
        ("-5", "", None),
        ("nan", "", None),
        ("inf", "", None),
        ("1e9", "", None),
        ("٣", "", None),
        ("soon", "", None),
        ("Tue, 14 Nov 99999 22:15:20 GMT", "", None),
        ("", "", None),
    ],
)
def test_retry_after_is_obeyed_in_every_form(header: str, date: str, delay: int | None) -> None:
    """Seconds, fractions, dates against the answer's own, and none that is longer than a duration."""
    answer = CallResult(status=503, headers={"retry-after": header, "date": date})
    assert retry_after_ms(answer, NOW) == delay


def test_a_request_is_stored_with_its_secrets_marked() -> None:
    """The URL and the values of headers are masked wherever the text is shown."""
    request = CallRequest(
        step="ask", method="GET", url="https://me:s3cr3t@x.test/?token=s3cr3t", headers={"x-mine": "s3cr3t"}
    )
    text = call_request_codec().encode(request)
    assert "s3cr3t" not in masked_text(text)
    assert "x-mine" in masked_text(text)
    assert call_request_codec().decode(text) == request
