"""The example as an app: both batches end to end, behind HTTP, and the demo."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

import examples.welcome_placeholder as example
from batchflow import Batchflow, BatchflowError, NonRetryable, RateLimited, RetryAfter
from batchflow.core.dead_letters import DeadLetterQuery
from examples.welcome_placeholder import data
from examples.welcome_placeholder.main import app
from examples.welcome_placeholder.model import LOCAL_DIMENSIONS, LocalWriter
from examples.welcome_placeholder.prompt import (
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelUnavailable,
    Prompt,
    TextModel,
    UnusableAnswer,
)
from examples.welcome_placeholder.repository import AgentRepository, Placeholders, UserRepository
from examples.welcome_placeholder.workflows import (
    STANDARD_TEXTS,
    AgentWelcome,
    Audience,
    UserInterests,
    WelcomePlaceholder,
    write,
)
from tests.house.sources import ROOT
from tests.waiting import wait_until

PROMPT = Prompt(kind="placeholders", name="Ada", locale="en-GB", topics=("chess",))


class FastPlaceholder(WelcomePlaceholder):
    """Without the limits that keep a model's server alive."""

    entry_flow = paginate_flow = execute_flow = None


class FastWelcome(AgentWelcome):
    """As above."""

    entry_flow = paginate_flow = execute_flow = None


class FailingModel:
    """Fails as it is told to."""

    def __init__(self, error: ModelError) -> None:
        self._error = error

    async def write(self, prompt: Prompt) -> list[str]:
        raise self._error

    async def aclose(self) -> None:
        pass


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The example's database, fresh."""
    path = tmp_path / "welcome.db"
    data.create(path)
    return path


@pytest.fixture
def flow(tmp_path: Path) -> Batchflow:
    """An app of its own."""
    return Batchflow(f"sqlite:///{tmp_path}/batchflow.db")


async def test_every_subscriber_gets_placeholders_once(flow: Batchflow, database: Path) -> None:
    """Those who have some are skipped; the dry run has said so; a second batch finds nothing to do."""
    users = UserRepository(database)
    users.save_placeholders("user-0001", Placeholders(texts=("by hand",)))
    welcome = flow.add(FastPlaceholder(lambda: users, LocalWriter))
    paid = Audience(paid_only=True)
    async with flow:
        statistics = await welcome.dry_run(paid)
        assert (statistics.total_eligible, statistics.to_process, statistics.already_processed) == (400, 399, 1)
        first = await (await welcome.trigger(paid)).wait(timeout=60, check=True)
        second = await (await welcome.trigger(paid)).wait(timeout=60, check=True)
    assert (first.counts.succeeded, first.counts.already_processed) == (399, 1)
    assert (second.counts.succeeded, second.counts.already_processed) == (0, 400)
    assert users.count_placeholders() == 400
    assert users.placeholders("user-0001") == Placeholders(texts=("by hand",))


async def test_a_result_says_how_many_placeholders_there_are(flow: Batchflow, database: Path) -> None:
    """What the batch keeps of a user is what was saved."""
    users = UserRepository(database)
    welcome = flow.add(FastPlaceholder(lambda: users, LocalWriter))
    async with flow:
        batch = await welcome.trigger(ids=["user-0001"])
        await batch.wait(timeout=60, check=True)
        ((id, result),) = [it async for it in batch.results()]
    saved = users.placeholders("user-0001")
    assert saved is not None
    assert (id, result.texts, result.placeholders_count) == ("user-0001", saved.texts, len(saved.texts))


async def test_agents_of_subscribers_get_their_welcome(flow: Batchflow, database: Path) -> None:
    """`paid_only` leaves the others without."""
    agents = AgentRepository(database)
    welcome = flow.add(FastWelcome(lambda: agents, LocalWriter))
    expected = agents.count(paid_only=True)
    async with flow:
        summary = await (await welcome.trigger(Audience(paid_only=True))).wait(timeout=60, check=True)
    assert summary.counts.succeeded == expected == agents.count_welcomes()
    assert 0 < expected < agents.count(paid_only=False)
    paid, _ = agents.ids_after(None, 1, paid_only=True)
    found = agents.welcome(paid[0])
    assert found is not None
    assert found.message.startswith("Hello! I am your ")


class FastInterests(UserInterests):
    """As above."""

    entry_flow = paginate_flow = execute_flow = None


class Counting(LocalWriter):
    """Notes how many texts a request has, and refuses those that have one too many."""

    def __init__(self, refused: str = "") -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._refused = refused

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.sizes.append(len(texts))
        if self._refused in texts:
            raise ModelRefused("an input is not allowed")
        return await super().embed(texts)


async def test_interests_of_many_users_go_with_one_request(flow: Batchflow, database: Path) -> None:
    """Each user has a vector; one whose text is refused fails alone."""
    users = UserRepository(database)
    refused = users.get("user-0007")
    assert refused is not None
    model = Counting(", ".join(refused.interests))
    interests = flow.add(FastInterests(lambda: users, lambda: model))
    async with flow:
        batch = await interests.trigger(limit=200)
        summary = await batch.wait(timeout=60)
        vectors = {id: vector async for id, vector in batch.results()}
        failed = [item.id async for item in batch.items("failed")]
    alike = [id for id, user in ((id, users.get(id)) for id in failed) if user and user.interests == refused.interests]
    assert failed == alike
    assert "user-0007" in failed
    assert summary.counts.succeeded == len(vectors) == 200 - len(failed)
    assert {len(vector) for vector in vectors.values()} == {LOCAL_DIMENSIONS}
    assert model.sizes.count(50) >= 3
    assert len(model.sizes) < 60


@pytest.mark.parametrize(
    ("error", "raised", "delay_ms"),
    [
        (ModelBusy("busy", retry_after=3), RateLimited, 3_000),
        (ModelBusy("busy"), RateLimited, 5_000),
        (ModelUnavailable("down", retry_after=2), RetryAfter, 2_000),
        (ModelRefused("no"), NonRetryable, None),
    ],
)
async def test_a_models_failure_says_when_to_try_again(
    error: ModelError, raised: type[BatchflowError], delay_ms: int | None
) -> None:
    """A busy model makes everything wait, one that refuses is not asked again."""
    with pytest.raises(raised, match=str(error)) as caught:
        await write(FailingModel(error), PROMPT)
    assert type(caught.value) is raised
    assert getattr(caught.value, "delay_ms", None) == delay_ms


@pytest.mark.parametrize("error", [ModelUnavailable("down"), UnusableAnswer("no list")])
async def test_other_failures_are_tried_again_as_usual(error: ModelError) -> None:
    """The retry policy knows what to do."""
    with pytest.raises(ModelError) as caught:
        await write(FailingModel(error), PROMPT)
    assert caught.value is error


async def test_a_refusal_fails_the_user_at_once(flow: Batchflow, database: Path) -> None:
    """One attempt, and a dead letter."""
    welcome = flow.add(
        FastPlaceholder(lambda: UserRepository(database), lambda: FailingModel(ModelRefused("wrong key")))
    )
    async with flow:
        batch = await welcome.trigger(ids=["user-0001"])
        summary = await batch.wait(timeout=60)
        (letter,) = await flow.engine.store.dead_letters(DeadLetterQuery(batch=batch.id))
    assert summary.counts.failed == 1
    assert "wrong key" in letter.error


async def test_a_user_whom_the_model_refuses_reads_standard_texts(flow: Batchflow, database: Path) -> None:
    """Until the dead letter is resumed and the model writes some."""
    models: list[TextModel] = [FailingModel(ModelRefused("no such topic"))]
    users = UserRepository(database)
    welcome = flow.add(FastPlaceholder(lambda: users, lambda: models[-1]))
    async with flow:
        batch = await welcome.trigger(ids=["user-0001"])
        await batch.wait(timeout=60)
        await wait_until(lambda: users.placeholders("user-0001") == STANDARD_TEXTS, description="standard texts")
        models.append(LocalWriter())
        assert (await flow.dead_letters.resume(batch_id=batch.id)).count == 1
        assert (await batch.wait(timeout=60)).succeeded
    found = users.placeholders("user-0001")
    assert found is not None
    assert found != STANDARD_TEXTS


async def test_a_model_that_refuses_everybody_pauses_the_batch(flow: Batchflow, database: Path) -> None:
    """All others keep their empty message box, and get their texts once the model is well and the batch goes on."""
    models: list[TextModel] = [FailingModel(ModelRefused("wrong key"))]
    welcome = flow.add(FastPlaceholder(lambda: UserRepository(database), lambda: models[-1]))
    async with flow:
        batch = await welcome.trigger()

        async def is_paused() -> bool:
            return (await batch.status()).paused

        await wait_until(is_paused, description="the batch to pause")
        assert (await batch.status()).counts.open > 0
        models.append(LocalWriter())
        await batch.resume()
        summary = await batch.wait(timeout=60)
    assert summary.counts.failed >= 50
    assert summary.counts.succeeded + summary.counts.failed == 1_000
    assert summary.counts.succeeded > 0


def test_importing_the_example_makes_no_files(tmp_path: Path) -> None:
    """Databases are made when something is started."""
    script = "from examples.welcome_placeholder import flow; import examples.welcome_placeholder.main"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the example's own app works in."""
    monkeypatch.chdir(tmp_path)
    example.database.cache_clear()
    yield tmp_path
    example.database.cache_clear()


async def answer(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> Any:
    response = await client.request(method, path, **options)
    assert response.status_code < 400, response.text
    return response.json()


@pytest.mark.usefixtures("here")
async def test_the_batches_are_behind_http() -> None:
    """The routes of the pattern, and what came of it."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        api = "/api/workflows/welcome-placeholder/process-users"
        counted = await answer(client, "POST", api, json={"dryRun": True, "paidOnly": True})
        assert (counted["totalEligible"], counted["message"]) == (400, "[DryRun] Would process 400 users")
        started = await answer(client, "POST", api, json={"userIds": ["user-0001"]})
        await example.flow.workflows["welcome-placeholder"].batch(started["batchId"]).wait(timeout=60, check=True)
        status = await answer(client, "GET", started["statusUrl"])
        assert (status["state"], status["counts"]["succeeded"]) == ("completed", 1)
        texts = (await answer(client, "GET", "/users/user-0001/placeholders"))["texts"]
        assert len(texts) >= 3
        missing = await client.get("/users/user-0002/placeholders")
        assert (missing.status_code, missing.json()) == (404, {"detail": "'user-0002' has no placeholders yet"})


def demo(folder: Path) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", "examples.welcome_placeholder.demo"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


def test_the_demo_can_be_run_again_and_again(database: Path, tmp_path: Path) -> None:
    """The first time it does what is left to do, the second time it says that nothing is, and how to start over."""
    written = Placeholders(texts=("by hand",)).model_dump_json()
    with data.connect(database) as connection:
        # A thousand users take ten seconds.
        connection.execute("INSERT INTO placeholders SELECT id, ? FROM users WHERE id > 'user-0030'", (written,))
    first = demo(tmp_path)
    assert "to process          30" in first
    assert "Processed 30 users" in first
    assert "user-0001 now reads one of:" in first
    assert "  rm batchflow.db* welcome.db*" in first
    second = demo(tmp_path)
    assert "Everybody has their texts from the last time, so the batch has nothing to do." in second
    assert "All items already processed" in second
