"""A program that sees the functions of an account without their code."""

from collections.abc import AsyncGenerator

import pytest

from batchflow import Batchflow, QStash
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.errors import ConfigurationError
from batchflow.qstash.account_directory import see_account
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.relay import SOON_MS
from tests.qstash.stage import APP_URL, WireStage

URL = f"{APP_URL}/orders/ship"
OTHER = "https://other.example.com/orders/ship"


def operator(stage: WireStage) -> QStashEngine:
    """The engine of such a program."""
    account = QStash(url="http://qstash.test", token=stage.token, transport=stage.transport, verify=False)
    flow = Batchflow(account, clock=stage.clock)
    see_account(flow.engine)
    assert isinstance(flow.engine, QStashEngine)
    return flow.engine


@pytest.fixture
async def stage() -> AsyncGenerator[WireStage]:
    """An account."""
    async with WireStage() as stage:
        yield stage


@pytest.mark.parametrize("app_url", [f"{APP_URL}/", f"{APP_URL}/api"])
async def test_functions_below_the_url_of_the_app_have_routes(
    stage: WireStage, app_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their URLs, and only a filter that names them finds their dead letters."""
    monkeypatch.setenv("APP_URL", app_url)
    directory = operator(stage).directory
    url = f"{app_url.rstrip('/')}/orders/ship"
    assert directory.route_of(f"{url}?a=b") == "/orders/ship"
    assert directory.url_of("/orders/ship") == directory.known_url_of("/orders/ship") == url
    assert (directory.route_of(OTHER), directory.url_of(OTHER)) == (OTHER, OTHER)
    assert directory.is_at("/orders/ship", "/orders/ship")
    assert not directory.is_at("/orders/ship", OTHER)
    assert directory.is_at(OTHER, OTHER)
    everything, named = DeadLetterQuery(), DeadLetterQuery(destination=OTHER)
    assert directory.urls_matching(everything) is None
    assert [directory.matches(it, everything) for it in ("/orders/ship", OTHER)] == [True, False]
    assert directory.urls_matching(named) == [OTHER]
    assert [directory.matches(it, named) for it in ("/orders/ship", OTHER)] == [False, True]
    assert directory.urls_matching(DeadLetterQuery(workflow="/orders/ship", destination=OTHER)) == []
    assert directory.urls_matching(DeadLetterQuery(workflow="welcome")) == []


@pytest.mark.parametrize("app_url", [None, APP_URL])
async def test_without_a_whole_url_of_the_app_a_route_stands_for_urls_that_end_with_it(
    stage: WireStage, app_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs one URL is refused with the line to write."""
    monkeypatch.delenv("APP_URL", raising=False)
    if app_url is not None:
        monkeypatch.setenv("APP_URL", app_url)
    directory = operator(stage).directory
    query = DeadLetterQuery(workflow="/orders/ship")
    assert directory.route_of(URL) == URL
    assert directory.known_url_of("/orders/ship") is None
    assert directory.urls_matching(query) is None
    for url in (URL, OTHER):
        assert directory.is_at("/orders/ship", url)
        assert directory.matches(url, query)
        assert directory.matches(url, DeadLetterQuery())
    assert not directory.is_at("/orders/send", URL)
    with pytest.raises(ConfigurationError, match="APP_URL"):
        directory.url_of("/orders/ship")
    target = directory.target_of(OTHER)
    assert target is not None
    assert target.title == OTHER
    assert directory.target_of(f"{APP_URL}/deliveries") is None


async def test_all_that_is_made_due_within_a_second_has_the_app_called_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program knows neither the code of the messages nor their limits."""
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(batches=True) as stage:
        executed: list[str] = []

        @stage.flow.batch(ids=["a", "b", "c"])
        async def welcome(id: str) -> None:
            executed.append(id)

        await stage.open()
        batch = await welcome.trigger()
        await batch.pause()
        await stage.drive(ms=SOON_MS)
        assert not executed
        seen = len(stage.client.requests)
        program = stage.again()
        see_account(program.engine)
        await program.engine.open()
        begun = stage.clock.now()
        for _ in range(3):
            await batch.pause()
            assert await program.engine.resume_batch(batch.id)
        await stage.drive(ms=2 * SOON_MS)
        assert sorted(executed) == ["a", "b", "c"]
        await program.stop()
        bodies = stage.bodies[seen:]
        assert bodies.count({}) == 1
        assert stage.clock.now() - begun <= 2 * SOON_MS
