"""An app on QStash is told what it lacks, and what QStash cannot do for it."""

from collections.abc import AsyncIterator, Callable

import pytest

from batchflow import Batchflow, QStash, RateLimited, RetryPolicy, WorkflowContext
from batchflow.errors import ConfigurationError, StepFailed
from batchflow.qstash.engine import QStashEngine
from tests.qstash.stage import APP_URL, WireStage

VARIABLES = ("QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, "QSTASH_URL", "APP_URL", "BATCHFLOW_APP_URL", "UPSTASH_WORKFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("missing", VARIABLES)
@pytest.mark.parametrize("url", ["qstash://", None])
def test_each_missing_variable_is_named_with_the_line_to_write(
    environment: pytest.MonkeyPatch, missing: str, url: str | None
) -> None:
    for name in VARIABLES:
        if name != missing:
            environment.setenv(name, "secret-value")
    with pytest.raises(ConfigurationError, match=f"write {missing}=… into the environment") as raised:
        Batchflow(QStash() if url is None else url)
    assert "secret-value" not in str(raised.value)


def test_the_environment_alone_makes_an_app_on_qstash(environment: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        environment.setenv(name, "secret-value")
    environment.setenv("BATCHFLOW_URL", "qstash://")
    flow = Batchflow()
    assert not flow.worker
    assert "secret-value" not in repr(flow.settings)


def test_an_address_belongs_into_a_variable_of_its_own(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="write qstash://, and the address in QSTASH_URL"):
        Batchflow("qstash://qstash.example.com")


@pytest.fixture
def flow(environment: pytest.MonkeyPatch) -> Batchflow:
    return Batchflow(QStash(token="e30=", verify=False))


REFUSED: dict[str, Callable[[Batchflow], object]] = {
    "'greet' is a batch": lambda flow: flow.batch(greet),
    "'schedule' is not supported on QStash": lambda flow: flow.serve("/daily", schedule="0 3 * * *"),
    "QStash has schedules": lambda flow: flow.schedules,
}


async def greet(name: str) -> str:
    return name


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_qstash_does_not_do_for_an_app_is_refused_with_a_sentence(flow: Batchflow, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        REFUSED[sentence](flow)


async def test_a_worker_is_refused_since_qstash_calls_the_app(flow: Batchflow) -> None:
    with pytest.raises(ConfigurationError, match="start no worker"):
        await flow.start(worker=True)
    await flow.stop()


async def test_a_trigger_without_a_public_url_says_what_to_set(flow: Batchflow) -> None:
    @flow.serve("/onboarding")
    async def onboarding(ctx: WorkflowContext[str]) -> None: ...

    with pytest.raises(ConfigurationError, match="set APP_URL"):
        await onboarding.trigger("ada")


@pytest.fixture
async def stage(environment: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    environment.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:
        yield stage


async def test_a_step_with_more_retries_than_its_function_is_refused(stage: WireStage) -> None:
    said: list[str] = []

    @stage.flow.serve("/patient", retries=1)
    async def patient(ctx: WorkflowContext[None]) -> None:
        try:
            ctx.step(retry=RetryPolicy(retries=9))
        except ConfigurationError as error:
            said.append(str(error))
        await ctx.step(retry=RetryPolicy(retries=1)).run("step", step)

    async def step() -> None: ...

    await stage.open()
    run = await patient.trigger(None)
    await stage.drive()
    assert (await run.status()).state == "completed"
    assert "QStash delivers a run of this function 2 times" in said[0]


def test_a_token_without_a_user_makes_no_webhook(flow: Batchflow) -> None:
    engine = flow.engine
    assert isinstance(engine, QStashEngine)
    with pytest.raises(ConfigurationError, match="QSTASH_TOKEN names no user"):
        engine.account.webhook_url("run_1.whk_1")


async def test_a_rate_limit_costs_an_attempt_and_is_tried_again_at_its_time(stage: WireStage) -> None:
    times: list[int] = []

    @stage.flow.serve("/limited", retries=1)
    async def limited(ctx: WorkflowContext[None]) -> str:
        async def step() -> None:
            times.append(stage.clock.now())
            raise RateLimited(90)

        try:
            await ctx.run("step", step)
        except StepFailed:
            return "failed"
        return "done"

    await stage.open()
    run = await limited.trigger(None)
    await stage.drive()
    assert [later - times[0] for later in times] == [0, 90_000]
    assert (await run.status()).state == "failed"
