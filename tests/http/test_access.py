"""The doors: which requests may reach which route."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.routing import APIRoute, iter_route_contexts
from httpx import ASGITransport, AsyncClient

from batchflow import Batchflow
from batchflow.errors import ConfigurationError
from batchflow.settings import Settings
from tests.http.conftest import client_of
from tests.http.samples import PREFIX, assert_error, serve_all

TOKEN = "a-token-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

ANYBODY, TRIGGER, OPERATOR = "anybody", "trigger", "operator"
DOORS = {
    "POST /webhooks/{token}": ANYBODY,
    "any /webhooks/{token}": ANYBODY,
    "GET /health": ANYBODY,
    "GET /health/live": ANYBODY,
    "POST /welcome/process-users": TRIGGER,
    "POST /welcome/paginate-users": TRIGGER,
    "POST /welcome/generate-user": TRIGGER,
    "POST /limited/process-items": TRIGGER,
    "POST /limited/paginate-items": TRIGGER,
    "POST /limited/execute-item": TRIGGER,
    "POST /greet/process-items": TRIGGER,
    "POST /greet/paginate-items": TRIGGER,
    "POST /greet/execute-item": TRIGGER,
    "POST /onboarding": TRIGGER,
    "POST /nightly/cleanup": TRIGGER,
    "POST /approvals": TRIGGER,
    "POST /hooked": TRIGGER,
    "POST /signup": TRIGGER,
    "GET /batches": OPERATOR,
    "GET /batches/{id}": OPERATOR,
    "GET /batches/{id}/items": OPERATOR,
    "GET /batches/{id}/export": OPERATOR,
    "GET /batches/{id}/items/{number}": OPERATOR,
    "GET /batches/{id}/item": OPERATOR,
    "GET /batches/{id}/why": OPERATOR,
    "GET /batches/{id}/progress": OPERATOR,
    "POST /batches/{id}/cancel": OPERATOR,
    "POST /batches/{id}/pause": OPERATOR,
    "POST /batches/{id}/resume": OPERATOR,
    "POST /batches/{id}/approve": OPERATOR,
    "POST /batches/{id}/priority": OPERATOR,
    "POST /batches/{id}/retry": OPERATOR,
    "POST /batches/{id}/failure-budget": OPERATOR,
    "POST /batches/cancel": OPERATOR,
    "POST /batches/pause": OPERATOR,
    "POST /batches/resume": OPERATOR,
    "GET /items/{workflow}/{id:path}": OPERATOR,
    "GET /runs": OPERATOR,
    "GET /runs/{id}": OPERATOR,
    "GET /runs/{id}/progress": OPERATOR,
    "POST /runs/{id}/cancel": OPERATOR,
    "POST /runs/cancel": OPERATOR,
    "POST /events/{id:path}": OPERATOR,
    "GET /events/{id:path}/waiters": OPERATOR,
    "GET /dlq": OPERATOR,
    "GET /dlq/groups": OPERATOR,
    "GET /dlq/{id}": OPERATOR,
    "DELETE /dlq/{id}": OPERATOR,
    "POST /dlq/resume": OPERATOR,
    "POST /dlq/restart": OPERATOR,
    "POST /dlq/callback": OPERATOR,
    "POST /dlq/delete": OPERATOR,
    "GET /flow": OPERATOR,
    "GET /flow/{key}": OPERATOR,
    "POST /flow/{key}/pin": OPERATOR,
    "POST /flow/{key}/unpin": OPERATOR,
    "POST /flow/{key}/pause": OPERATOR,
    "POST /flow/{key}/resume": OPERATOR,
    "POST /flow/{key}/reset": OPERATOR,
    "GET /workers": OPERATOR,
    "GET /schedules": OPERATOR,
    "POST /schedules": OPERATOR,
    "GET /schedules/{id}": OPERATOR,
    "DELETE /schedules/{id}": OPERATOR,
    "POST /schedules/{id}/pause": OPERATOR,
    "POST /schedules/{id}/resume": OPERATOR,
    "POST /schedules/{id}/trigger": OPERATOR,
}
"""Who may call each route. A new route has to be written down here, with the answer to that question."""

STRANGER = ("203.0.113.9", 40_000)


def routes_of(router: Any) -> Iterator[str]:
    for found in iter_route_contexts(router.routes):
        route = found.original_route
        assert isinstance(route, APIRoute)
        for method in route.methods or ["any"]:
            yield f"{method} {route.path}"


@asynccontextmanager
async def serving(*, client: Any = ("127.0.0.1", 1), base: str = "http://test", **options: Any) -> AsyncGenerator[Any]:
    """An app without a worker, and a client at an address, whose paths are below the prefix."""
    flow = Batchflow("sqlite://", worker=False, **options)
    serve_all(flow)
    app = FastAPI()
    app.include_router(flow.router, prefix=PREFIX)
    transport = ASGITransport(app, client=client)
    async with flow, AsyncClient(transport=transport, base_url=f"{base}{PREFIX}") as http:
        yield http


async def statuses(http: AsyncClient, **options: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for route in DOORS:
        method, path = (
            route.replace("{id:path}", "x")
            .replace("{id}", "x")
            .replace("{token}", "x")
            .replace("{number}", "0")
            .replace("{workflow}", "welcome")
            .split(" ")
        )
        answer = await http.request("PUT" if method == "any" else method, path, content="[", **options)
        found[route] = answer.status_code
    return found


def closed_to(found: dict[str, int], status: int) -> set[str]:
    return {route for route, it in found.items() if it == status}


def doors(*kinds: str) -> set[str]:
    return {route for route, kind in DOORS.items() if kind in kinds}


def test_every_route_is_written_down(idle: Batchflow) -> None:
    """With the answer to the question who may call it, and in the part of that kind."""
    assert set(routes_of(idle.router)) == set(DOORS)
    assert set(routes_of(idle.webhooks_router)) == doors(ANYBODY)
    assert set(routes_of(idle.triggers_router)) == doors(TRIGGER)
    assert set(routes_of(idle.admin_router)) == doors(OPERATOR)


async def test_with_a_token_all_but_webhooks_ask_for_it() -> None:
    """From this machine too; before anything else of the request is read."""
    async with serving(token=TOKEN) as http:
        assert closed_to(await statuses(http), 401) == doors(TRIGGER, OPERATOR)
        assert closed_to(await statuses(http, headers=BEARER), 401) == set()
        refused = await http.get("/runs?unknown=1")
        assert_error(refused, (401, "send the token of this app", "Authorization"))
        assert refused.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
async def test_another_token_is_refused(given: str) -> None:
    """The answer shows neither of the two."""
    async with serving(token=TOKEN) as http:
        refused = await http.post("/onboarding", json={"email": "a@b"}, headers={"Authorization": given.encode("utf8")})
        assert_error(refused, (401, "not the token of this app", "Authorization"))
        assert TOKEN not in refused.text


async def test_a_token_opens_from_everywhere() -> None:
    """The scheme is written in any case, as HTTP says."""
    async with serving(client=STRANGER, base="https://jobs.example.org", token=TOKEN) as http:
        for scheme in ("Bearer", "bearer"):
            assert (await http.get("/runs", headers={"Authorization": f"{scheme} {TOKEN}"})).status_code == 200
        twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
        assert (await http.get("/runs", headers=twice)).status_code == 401


@pytest.mark.parametrize("token", ["", " ", "two words", "tökn", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable does not mean that there is no token; the sentence does not show it."""
    monkeypatch.setenv("BATCHFLOW_TOKEN", token)
    with pytest.raises(ConfigurationError, match="BATCHFLOW_TOKEN") as error:
        Batchflow("sqlite://")
    assert not token.strip() or token not in str(error.value)


def test_the_token_is_in_no_repr() -> None:
    """Neither in that of the settings nor in their dump."""
    settings = Batchflow("sqlite://", token=TOKEN).settings
    assert settings.token is not None
    assert TOKEN not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


async def test_without_a_token_operators_are_on_this_machine() -> None:
    """Triggers and webhooks are open."""
    async with serving() as http:
        assert closed_to(await statuses(http), 403) == set()
    async with serving(client=STRANGER) as http:
        assert closed_to(await statuses(http), 403) == doors(OPERATOR)
        assert_error(await http.get("/runs"), (403, "set BATCHFLOW_TOKEN", None))


@pytest.mark.parametrize("client", [("127.0.0.1", 1), ("127.8.8.8", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)])
@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST.", "a.localhost", "127.0.0.1:80", "[::1]:1"]
)
async def test_loopback_has_many_names(client: Any, host: str) -> None:
    """Addresses and names, with and without a port."""
    async with serving(client=client) as http:
        assert (await http.get("/runs", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("client", [STRANGER, ("10.0.0.1", 1), ("::ffff:10.0.0.1", 1), ("localhost", 1), ("", 1), None])
async def test_other_addresses_are_strangers(client: Any) -> None:
    """A socket without an address, such as a Unix socket, belongs to a proxy."""
    async with serving(client=client, base="http://localhost") as http:
        assert (await http.get("/runs")).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "a@localhost",
        "",
        "[::2]",
    ],
)
async def test_a_name_that_leads_to_this_machine_is_not_its_own(host: str) -> None:
    """A web page whose name is made to lead to 127.0.0.1 reads and changes nothing."""
    async with serving(base="http://localhost") as http:
        assert (await http.get("/runs", headers={"Host": host})).status_code == 403
        refused = await http.post("/runs/cancel", json={"label": "x"}, headers={"Host": host})
        assert refused.status_code == 403


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Real-IP"),
        *("Via", "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Client-IP", "X-Envoy-External-Address"),
        *("Fly-Client-IP", "X-Amzn-Trace-Id"),
    ],
)
async def test_a_proxy_on_this_machine_is_not_the_operator(name: str) -> None:
    """It is known by a header, whatever that says."""
    async with serving(base="http://localhost") as http:
        assert (await http.get("/runs", headers={name: "127.0.0.1"})).status_code == 403


async def test_the_test_client_of_starlette_is_the_operator() -> None:
    """No server has a client of that name, unless a proxy said so."""
    async with serving(client=("testclient", 50_000), base="http://app.example.org") as http:
        assert (await http.get("/runs")).status_code == 200
        assert (await http.get("/runs", headers={"X-Forwarded-For": "testclient"})).status_code == 403


async def test_an_app_may_guard_the_routes_of_operators_itself() -> None:
    """Its dependency then decides alone."""
    flow = Batchflow("sqlite://", worker=False, admin_access="app")
    serve_all(flow)

    def operator(key: str = "") -> None:
        if key != "mine":
            raise HTTPException(401)

    app = FastAPI()
    app.include_router(flow.triggers_router, prefix="/api")
    app.include_router(flow.admin_router, prefix="/ops", dependencies=[Depends(operator)])
    transport = ASGITransport(app, client=STRANGER)
    async with flow, AsyncClient(transport=transport, base_url="http://jobs.example.org") as http:
        assert (await http.get("/ops/runs")).status_code == 401
        assert (await http.get("/ops/runs?key=mine")).status_code == 200
        assert (await http.post("/api/onboarding", json={"email": "a@b"})).status_code == 202


# Requests of other origins

OWN = "http://localhost:8000"


@asynccontextmanager
async def origin(monkeypatch: pytest.MonkeyPatch | None = None, allowed: str = "") -> AsyncGenerator[AsyncClient]:
    if monkeypatch is not None:
        monkeypatch.setenv("BATCHFLOW_ALLOWED_ORIGINS", allowed)
    async with serving(base=OWN) as http:
        yield http


FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost:8000"},
    {"Sec-Fetch-Site": "cross-site", "Origin": OWN},
    {"Sec-Fetch-Site": "odd"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost:8001"},
    {"Origin": "http://localhost"},
    {"Origin": f"{OWN}.evil.example"},
]
CHANGES = sorted(route.split(" ")[1] for route, kind in DOORS.items() if route.startswith("POST") and kind != ANYBODY)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_page_of_another_origin_changes_nothing(headers: dict[str, str]) -> None:
    """Whatever type its body is declared as."""
    async with origin() as http:
        for path in CHANGES:
            refused = await http.post(path.replace("{id}", "x").replace("{id:path}", "x"), headers=headers)
            assert_error(refused, (403, "BATCHFLOW_ALLOWED_ORIGINS", "Origin"))
        assert (await http.get("/runs", headers=headers)).json()["runs"] == []
        assert (await http.post("/webhooks/x", headers=headers)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": OWN},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://before.the.proxy"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": OWN},
        {"Origin": OWN.replace("http", "https")},
        {"Origin": OWN.upper()},
    ],
    ids=str,
)
async def test_the_own_origin_and_programs_may_change(headers: dict[str, str]) -> None:
    """Neither curl nor an SDK sends these headers; a proxy may hide the scheme."""
    async with origin() as http:
        assert (await http.post("/onboarding", json={"email": "a@b"}, headers=headers)).status_code == 202


async def test_origins_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its one form."""
    async with origin(monkeypatch, "https://App.example.com:443/, http://localhost:3000") as http:
        for page in ("https://app.example.com", "http://localhost:3000"):
            headers = {"Origin": page, "Sec-Fetch-Site": "cross-site"}
            assert (await http.post("/onboarding", json={"email": "a@b"}, headers=headers)).status_code == 202
        for page in ("https://example.com", "http://app.example.com", "null"):
            headers = {"Origin": page, "Sec-Fetch-Site": "cross-site"}
            assert (await http.post("/onboarding", json={"email": "a@b"}, headers=headers)).status_code == 403


async def test_app_url_is_an_own_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may hide the host as well."""
    monkeypatch.setenv("APP_URL", "https://jobs.example.org/api")
    async with origin() as http:
        headers = {"Origin": "https://jobs.example.org"}
        assert (await http.post("/onboarding", json={"email": "a@b"}, headers=headers)).status_code == 202


async def test_a_page_whose_name_leads_to_this_machine_starts_nothing() -> None:
    """Its browser takes it for the own origin."""
    async with origin() as http:
        headers = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", "Sec-Fetch-Site": "same-origin"}
        assert (await http.post("/onboarding", json={"email": "a@b"}, headers=headers)).status_code == 403


@pytest.mark.parametrize("value", ["*", "app.example.com", "https://a.example/path", "ftp://a", "null", "https://a?b"])
def test_what_is_not_an_origin_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    monkeypatch.setenv("BATCHFLOW_ALLOWED_ORIGINS", value)
    with pytest.raises(ConfigurationError, match="BATCHFLOW_ALLOWED_ORIGINS"):
        Settings.load()


async def test_a_stranger_reads_nothing_with_a_head_request(idle: Batchflow) -> None:
    """No method of a route is forgotten."""
    async with client_of(idle) as http:
        answer = await http.head("/runs", headers={"X-Forwarded-For": "203.0.113.7"})
    assert (answer.status_code, answer.content) == (403, b"")
