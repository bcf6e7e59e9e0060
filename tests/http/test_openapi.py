"""The OpenAPI document, held against the app by schemathesis: requests that fit it, and requests that do not."""

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, cast

import pytest
import schemathesis.checks
import schemathesis.openapi
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import BaseModel, Field, SecretBytes, SecretStr
from requests import Request
from schemathesis import GenerationMode

from batchflow import Batchflow, BatchWorkflow, Page, Secret, WorkflowContext
from tests.http.samples import serve_all

openapi: Any = schemathesis.openapi
known_checks: Any = schemathesis.checks

# It sends requests of its own, over a socket; the test at the end does the same with every request.
NOT_CHECKED = {"ignored_auth"}
# Fields exclude each other (two ids, a delay and a time), or only go together (a key with its limits); texts and types
# of your own have more rules than a schema has words. A request may fit it, and still be refused with a sentence.
NOT_CHECKED_OF_TRIGGERS = {*NOT_CHECKED, "positive_data_acceptance"}
BASE = "http://localhost"
TOKEN = "a-token-of-the-test"
OPEN = ("/webhooks/", "/health")
OWN = ("GET ", "POST /batches/{id}", "POST /runs/{id}", "POST /events/", "POST /webhooks/")
OF_FIELDS_TOGETHER = ("/failure-budget", "/retry")

some = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


class Served:
    """An app without a worker in a loop of its own. `effects` counts what requests have stored."""

    def __init__(self, runner: asyncio.Runner, **options: Any) -> None:
        self.flow = Batchflow("sqlite://", worker=False, **options)
        serve_all(self.flow)
        self.app = FastAPI()
        self.app.include_router(self.flow.router)
        self.effects = 0
        self._runner = runner
        self._http = AsyncClient(transport=ASGITransport(self.app), base_url=BASE)
        for verb in ("publish", "open_batch", "notify", "cancel_run", "cancel_runs"):
            self._count(verb)
        for verb in ("cancel_batch", "pause_batch", "resume_batch"):
            self._count(verb)

    def _count(self, verb: str) -> None:
        call = getattr(self.flow.engine, verb)

        async def counted(*args: Any, **options: Any) -> Any:
            self.effects += 1
            return await call(*args, **options)

        setattr(self.flow.engine, verb, counted)

    def send(self, case: Any, **headers: str) -> Any:
        """The response to a request that schemathesis has made."""
        made = case.as_transport_kwargs(base_url=BASE)
        made["headers"] = {**made["headers"], **headers}
        parts = ("method", "url", "headers", "params", "data", "json", "cookies", "files")
        request: Any = Request(**{name: made[name] for name in parts if name in made}).prepare()
        sent = self._http.request(request.method, request.url, content=request.body, headers=dict(request.headers))
        return self._runner.run(sent)

    def operations(self) -> Iterator[Any]:
        """The operations of the document. A stream of a batch that does not exist ends at once, like any other."""
        for found in openapi.from_dict(self.app.openapi()).get_all_operations():
            yield found.ok()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def served(runner: asyncio.Runner, **options: Any) -> Iterator[Served]:
    app = Served(runner, **options)
    runner.run(app.flow.start())
    yield app
    runner.run(app.flow.stop())


@pytest.fixture(scope="module")
def without_token(runner: asyncio.Runner) -> Iterator[Served]:
    yield from served(runner)


@pytest.fixture(scope="module")
def with_token(runner: asyncio.Runner) -> Iterator[Served]:
    yield from served(runner, token=TOKEN)


def names() -> list[str]:
    flow = Batchflow("sqlite://")
    serve_all(flow)
    app = FastAPI()
    app.include_router(flow.router)
    return [f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods]


def cases_of(served: Served, name: str) -> Any:
    operation = next(it for it in served.operations() if it.label == name)
    return operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(
        generation_mode=GenerationMode.NEGATIVE
    )


def excluded_checks(name: str) -> list[Any]:
    known_checks.load_all_checks()
    has_rules = not name.startswith(OWN) or name.endswith(OF_FIELDS_TOGETHER)
    excluded = NOT_CHECKED_OF_TRIGGERS if has_rules else NOT_CHECKED
    return [check for check in known_checks.CHECKS.get_all() if check.__name__ in excluded]


@pytest.mark.parametrize("name", names())
def test_the_document_is_true(name: str, without_token: Served) -> None:
    """No status that it does not name, no answer of another form, nothing taken that it excludes, and no 5xx."""
    excluded = excluded_checks(name)

    @some
    @given(case=cases_of(without_token, name))
    def hold(case: Any) -> None:
        response = without_token.send(case)
        assert response.status_code < 500
        case.validate_response(response, excluded_checks=excluded)

    hold()


@pytest.mark.parametrize("name", names())
def test_nothing_happens_without_the_token(name: str, with_token: Served) -> None:
    """Whatever else a request says; with the token it comes as far as the rest of the checks."""

    @some
    @given(case=cases_of(with_token, name))
    def hold(case: Any) -> None:
        before = with_token.effects
        response = with_token.send(case, Authorization="")
        if not any(part in name for part in OPEN):
            assert response.status_code in (401, 404, 405)
        assert response.status_code < 500
        assert with_token.effects == before

    hold()


class Account(BaseModel):
    """A payload with secrets in every place of a type."""

    user: str
    password: SecretStr = SecretStr("preset-1")
    key: Annotated[str, Secret, Field(min_length=3)]
    keys: list[Annotated[str, Secret]] = []
    named: dict[str, SecretBytes] = {}
    either: int | Annotated[str, Secret] = 1
    whole: Annotated[dict[str, str], Secret] = {"a": "preset-2"}


class Rotation(BatchWorkflow[Account, str, str]):
    """The same as parameters of a batch."""

    entity = "key"

    async def fetch(self, params: Account, cursor: str | None, limit: int) -> Page:
        return Page(ids=[])

    async def execute(self, item_id: str) -> str:
        return item_id


def secret_parts(part: Any) -> Iterator[dict[str, Any]]:
    match part:
        case {"format": "password", **rest}:
            yield {"format": "password", **rest}
        case dict():
            for inner in cast("dict[str, Any]", part).values():
                yield from secret_parts(inner)
        case list():
            for inner in cast("list[Any]", part):
                yield from secret_parts(inner)
        case _:
            pass


@pytest.mark.parametrize(
    "path", ["/accounts", "/rotation/process-keys", "/rotation/paginate-keys", "/rotation/execute-key"]
)
def test_secrets_are_passwords_that_are_only_written(path: str) -> None:
    """Wherever they are in a body, and none with a default."""
    flow = Batchflow("sqlite://")

    @flow.serve("/accounts")
    async def accounts(ctx: WorkflowContext[Account]) -> Account:
        return ctx.payload

    flow.add(Rotation())
    app = FastAPI()
    app.include_router(flow.router)
    body = app.openapi()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    found = list(secret_parts(body))
    assert len(found) == 6
    assert all(it["writeOnly"] is True and "default" not in it for it in found)
    assert "preset" not in json.dumps(app.openapi())
    assert accounts.endpoint.route == "/accounts"
