"""The OpenAPI document, held against the server by schemathesis: requests that fit it, and requests that do not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis.checks
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from requests import Request
from schemathesis import GenerationMode

from batchflow.engine.engine import Engine
from batchflow.engine.options import EngineOptions
from batchflow.server.app import QStashServer
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import FixedEntropy, ManualClock
from tests.server.conftest import URL, client_of

openapi: Any = schemathesis.openapi
known_checks: Any = schemathesis.checks

# QStash passes over fields and parameters that it does not know, and texts have more rules than a schema has words.
# That a token is needed is tested for every route.
NOT_CHECKED = {"ignored_auth", "positive_data_acceptance", "negative_data_rejection"}

some = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def new_engine() -> Engine:
    clock = ManualClock()
    options = EngineOptions(concurrency=10, grace_s=1, retention_ms=86_400_000, threads=1)
    return Engine(SqliteStore(":memory:", clock=clock), {}, [], clock=clock, entropy=FixedEntropy(), options=options)


def document() -> dict[str, Any]:
    async def fetch() -> dict[str, Any]:
        async with client_of(QStashServer(new_engine()), None) as client:
            return (await client.get("/openapi.json")).json()

    return asyncio.run(fetch())


DOCUMENT = document()
NAMES = [f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]


class Served:
    """A server in a loop of its own."""

    def __init__(self, runner: asyncio.Runner, engine: Engine) -> None:
        self._runner = runner
        server = QStashServer(engine)
        self._http = client_of(server, runner.run(server.tokens.create("ours")))

    def send(self, case: Any) -> Any:
        """The response to a request that schemathesis has made."""
        made = case.as_transport_kwargs(base_url=URL)
        parts = ("method", "url", "headers", "params", "data", "json", "cookies", "files")
        request: Any = Request(**{name: made[name] for name in parts if name in made}).prepare()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        return self._runner.run(self._http.request(request.method, request.url, content=request.body, headers=headers))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    engine = new_engine()
    with asyncio.Runner() as runner:
        runner.run(engine.open())
        yield Served(runner, engine)
        runner.run(engine.close())


def cases_of(name: str) -> Any:
    operations = [it.ok() for it in openapi.from_dict(DOCUMENT).get_all_operations()]
    operation = next(it for it in operations if it.label == name)
    return operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(
        generation_mode=GenerationMode.NEGATIVE
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_true(name: str, served: Served) -> None:
    """No status that it does not name, no answer of another form, and no 5xx."""
    known_checks.load_all_checks()
    excluded = [check for check in known_checks.CHECKS.get_all() if check.__name__ in NOT_CHECKED]

    @some
    @given(case=cases_of(name))
    def hold(case: Any) -> None:
        response = served.send(case)
        assert response.status_code < 500
        case.validate_response(response, excluded_checks=excluded)

    hold()


def test_every_route_has_a_summary() -> None:
    """And its errors."""
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert {"400", "401", "404", "503"} <= operation["responses"].keys()
            assert "422" not in operation["responses"]
