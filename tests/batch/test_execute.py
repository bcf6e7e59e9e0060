"""Layer 3: one item, its steps and its answers."""

import logging
import re
from typing import Any, ClassVar

import structlog
from pydantic import BaseModel, field_serializer

from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.ids import item_run_id
from batchflow.core.message import Message
from batchflow.core.retry import RetryPolicy
from batchflow.errors import NonRetryable
from batchflow.serve.context import WorkflowContext
from tests.batch.model import Model
from tests.batch.samples import Audience, Greeting, Plain, Welcome, bound, events


async def test_an_item_is_loaded_processed_and_saved(model: Model, logs: list[dict[str, object]]) -> None:
    """Three steps, the parameters at hand, and the pattern's answer."""
    welcome = Welcome(users=1)
    batch = await bound(model, welcome).trigger(Audience(paid_only=True))
    await model.drive()
    run = item_run_id(batch.id, 0)
    assert model.results[run] == '{"success":true,"userId":"u0","result":{"texts":["Welcome, U0!"]}}'
    assert welcome.seen == [("u0", True)]
    assert welcome.saved == {"u0": Greeting(texts=["Welcome, U0!"])}
    # The last step rides with the settlement.
    assert [step.name for step in model.journals[run]] == ["welcome:get-item", "welcome:process-item"]
    lines = [line for line in logs if str(line["event"]).startswith("[welcome:execute]")]
    assert [line["event"] for line in lines] == ["[welcome:execute] Starting", "[welcome:execute] Completed"]
    assert {line["item_id"] for line in lines} == {"u0"}


async def test_lines_of_pages_and_items_are_written_for_debugging_only(model: Model) -> None:
    """At INFO a page or item logs nothing, and nobody asks for each item whether it should."""
    lines: list[object] = []

    def keep(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        lines.append(line["event"])
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        await bound(model, Welcome(users=1)).trigger()
        await model.drive()
    finally:
        structlog.configure(**before)
    assert lines == ["[welcome:process] Starting with payload"]


async def test_an_item_that_is_gone_is_answered(model: Model, logs: list[dict[str, object]]) -> None:
    """`load` returned None: failed without a retry, and no dead letter."""
    welcome = Welcome(users=2)
    welcome.gone = {"u1"}
    batch = await bound(model, welcome).trigger()
    await model.drive()
    run = item_run_id(batch.id, 1)
    assert model.results[run] == '{"success":false,"error":"Item not found","userId":"u1"}'
    assert run not in model.dead
    counts = model.counts(batch.id)
    assert (counts.succeeded, counts.failed) == (1, 1)
    assert "[welcome:execute:error] Item not found" in events(logs, "error")


async def test_an_item_may_be_sent_by_hand(model: Model) -> None:
    """Outside of a batch the payload names the item and brings the parameters; without an id it is answered."""
    welcome = Welcome()
    endpoint = bound(model, welcome).endpoints[2]
    bodies = ['{"userId":"u5","paidOnly":true}', '{"paidOnly":true}', '{"userId":""}', '{"userid":"u5"}']
    await model.publish(
        [
            Message(id=f"run_{number}", destination=endpoint.route, flow=endpoint.flow, body=body)
            for number, body in enumerate(bodies)
        ]
    )
    await model.drive()
    assert model.results["run_0"] == '{"success":true,"userId":"u5","result":{"texts":["Welcome, U5!"]}}'
    assert welcome.seen == [("u5", True)]
    assert model.results["run_1"] == model.results["run_2"] == '{"success":false,"error":"Missing userId"}'
    assert model.results["run_3"] == (
        '{"success":false,"error":"Unknown field \'userid\' for welcome; did you mean \'userId\'?"}'
    )


class Failing(BatchWorkflow[NoParams, str, int]):
    retry = RetryPolicy(retries=1, first="1s")

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.attempts = 0

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a"])

    async def execute(self, item_id: str) -> int:
        self.attempts += 1
        raise self.error


async def test_an_item_that_fails_is_tried_again_and_then_dead(model: Model, logs: list[dict[str, object]]) -> None:
    """The step's attempts are used up; the log has a warning for the first one, and one line at the end."""
    failing = Failing(OSError("no line"))
    batch = await bound(model, failing).trigger()
    await model.drive()
    assert failing.attempts == 2
    assert model.dead[item_run_id(batch.id, 0)].startswith("OSError: no line\nTraceback")
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert str(warning["event"]).startswith("[failing:execute] Attempt 1 of 2 failed, again in ")
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["event"] == "[failing:execute:error] Failed: OSError: no line"
    assert (line["item_id"], line["attempts"], line["batch"]) == ("a", 2, batch.id)
    assert re.fullmatch(r"test_execute\.py:\d+ in execute", str(line["where"]))


async def test_an_item_that_cannot_succeed_is_not_tried_again(model: Model) -> None:
    """`NonRetryable` goes straight to the dead letters."""
    failing = Failing(NonRetryable("never"))
    await bound(model, failing).trigger()
    await model.drive()
    assert failing.attempts == 1


class SavingBadly(Failing):
    async def execute(self, item_id: str) -> int:
        return 1

    async def save(self, item_id: str, result: int) -> None:
        raise NonRetryable("disk full")


async def test_saving_is_a_step_of_its_own(model: Model) -> None:
    """Its failure says so, and the result before it is recorded."""
    batch = await bound(model, SavingBadly(OSError())).trigger()
    await model.drive()
    run = item_run_id(batch.id, 0)
    assert model.dead[run].startswith("NonRetryable: disk full\nTraceback")
    assert "in save" in model.dead[run]
    assert model.journals[run][0].name == "saving-badly:process-item"


class Chatty(Plain):
    def save(self, item_id: str, result: None) -> Any:
        return object()


async def test_what_save_returns_is_not_kept(model: Model) -> None:
    """A `save` that ends with `return await client.set(…)` is fine."""
    batch = await bound(model, Chatty({None: Page(["a"])})).trigger()
    await model.drive()
    assert model.counts(batch.id).succeeded == 1


class Letter(BaseModel):
    text: str
    written: ClassVar[list[str]] = []

    @field_serializer("text")
    def write(self, text: str) -> str:
        self.written.append(text)
        return text


class Writing(BatchWorkflow[NoParams, str, Letter]):
    def __init__(self) -> None:
        self.saved: list[Letter] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a"])

    async def execute(self, item_id: str) -> Letter:
        return Letter(text=item_id)

    async def save(self, item_id: str, result: Letter) -> None:
        self.saved.append(result)
        if len(self.saved) == 1:
            raise OSError("busy")


async def test_a_result_is_written_as_json_once(model: Model) -> None:
    """The answer contains the recorded result of the step, also when a later attempt reads it."""
    workflow = Writing()
    batch = await bound(model, workflow).trigger()
    await model.drive()
    assert model.results[item_run_id(batch.id, 0)] == '{"success":true,"itemId":"a","result":{"text":"a"}}'
    assert workflow.saved == [Letter(text="a"), Letter(text="a")]
    assert Letter.written == ["a"]


class Staged(BatchWorkflow[NoParams, str, str]):
    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a"])

    async def execute(self, item_id: str) -> str:
        return item_id.upper()

    async def process(self, ctx: WorkflowContext[NoParams], item: str) -> str:
        first = await super().process(ctx, item)
        await ctx.sleep("a while", "1h")
        return await ctx.run("finish", self.finish, first)

    async def finish(self, text: str) -> str:
        return f"{text}{self.item_id}"


async def test_an_item_may_take_more_steps(model: Model) -> None:
    """An overridden `process` has everything of its context, sleeps included, and may still call the default."""
    batch = await bound(model, Staged()).trigger()
    before = model.now()
    await model.drive()
    run = item_run_id(batch.id, 0)
    assert model.results[run] == '{"success":true,"itemId":"a","result":"Aa"}'
    assert [step.name for step in model.journals[run]] == ["staged:process-item", "a while", "finish"]
    assert model.now() - before >= 3_600_000
    assert [pair async for pair in batch.results()] == [("a", "Aa")]
