"""Both batches of the three-layer pattern on QStash, used as their clients use them: by their routes."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchflow.batch.handle import BatchHandle
from examples.welcome_placeholder import data
from examples.welcome_placeholder.model import LocalWriter
from examples.welcome_placeholder.repository import AgentRepository, AgentWelcome, Placeholders, UserRepository
from examples.welcome_placeholder.workflows import AgentWelcome as WelcomeAgents
from examples.welcome_placeholder.workflows import WelcomePlaceholder
from tests.qstash.stage import APP_URL, WireStage

LEFT = 21
"""Those who have no texts yet: more than a chunk of them."""
PAID = {"paidOnly": True}


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param, batches=True) as stage:
        yield stage


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The database of the example, fresh."""
    path = tmp_path / "welcome.db"
    data.create(path)
    return path


async def post(stage: WireStage, path: str, body: object, status: int) -> dict[str, Any]:
    """The answer of the app to a client."""
    assert stage.client.app is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=APP_URL) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def all_ids(page: Callable[[str | None], tuple[list[str], str | None]]) -> list[str]:
    """The ids of all pages."""
    found, cursor = page(None)
    while cursor is not None:
        more, cursor = page(cursor)
        found += more
    return found


async def test_every_subscriber_without_placeholders_gets_some(stage: WireStage, database: Path) -> None:
    """As the dry run says; a second batch finds nothing to do, and one user can be asked for."""
    users = UserRepository(database)
    paid = all_ids(lambda cursor: users.ids_after(cursor, 100, paid_only=True))
    for id in paid[LEFT:]:
        users.save_placeholders(id, Placeholders(texts=("by hand",)))
    welcome = stage.flow.add(WelcomePlaceholder(lambda: users, LocalWriter))
    await stage.open()

    async def run(route: str, body: object) -> BatchHandle[Any]:
        started = await post(stage, f"/welcome-placeholder/{route}", body, 202)
        await stage.drive(ms=60_000)
        return welcome.batch(started["batchId"])

    counted = await post(stage, "/welcome-placeholder/process-users", {"dryRun": True, **PAID}, 200)
    expected = {"success": True, "totalEligible": 400, "toProcess": LEFT, "alreadyProcessed": 400 - LEFT}
    assert counted.items() >= {**expected, "dryRun": True, "message": f"[DryRun] Would process {LEFT} users"}.items()
    assert users.count_placeholders() == 400 - LEFT

    batch = await run("process-users", PAID)
    counts = (await batch.wait(check=True)).counts
    assert (counts.succeeded, counts.already_processed, counts.failed) == (LEFT, 400 - LEFT, 0)
    results = {id: result.texts async for id, result in batch.results()}
    assert results == {id: found.texts for id in paid[:LEFT] if (found := users.placeholders(id)) is not None}
    assert users.placeholders(paid[-1]) == Placeholders(texts=("by hand",))
    # The three layers of the pattern, each message in a request of its own.
    assert set(stage.client.answers) == {200}

    assert (await (await run("process-users", PAID)).wait(check=True)).counts.already_processed == 400
    one = await (await run("generate-user", {"userId": paid[-1]})).wait(check=True)
    assert one.counts.succeeded == 1
    assert users.placeholders(paid[-1]) != Placeholders(texts=("by hand",))
    assert await post(stage, "/welcome-placeholder/generate-user", {}, 400) == {
        "success": False,
        "error": "Missing userId",
    }


async def test_every_agent_of_a_subscriber_gets_its_welcome(stage: WireStage, database: Path) -> None:
    """Those of others and those that have one are left out, which the dry run says."""
    agents = AgentRepository(database)
    paid = all_ids(lambda cursor: agents.ids_after(cursor, 100, paid_only=True))
    for id in paid[LEFT:]:
        agents.save_welcome(id, AgentWelcome(message="by hand", questions=("Which?",)))
    welcome = stage.flow.add(WelcomeAgents(lambda: agents, LocalWriter))
    await stage.open()
    counted = await post(stage, "/agent-welcome/process-agents", {"dryRun": True, **PAID}, 200)
    assert (counted["totalEligible"], counted["toProcess"]) == (len(paid), LEFT)
    started = await post(stage, "/agent-welcome/process-agents", PAID, 202)
    await stage.drive(ms=60_000)
    counts = (await welcome.batch(started["batchId"]).wait(check=True)).counts
    assert (counts.succeeded, counts.already_processed) == (LEFT, len(paid) - LEFT)
    assert agents.count_welcomes() == len(paid) < agents.count(paid_only=False)
    found = agents.welcome(paid[0])
    assert found is not None
    assert found.message.startswith("Hello! I am your ")
