"""Onboarding: a welcome, three days of patience, and a letter that a language model writes."""

from pydantic import BaseModel

from batchflow import WorkflowContext
from tests.scenarios.scenario_app import DAY, Scene, json_answer


class NewUser(BaseModel):
    name: str
    email: str


class Completion(BaseModel):
    text: str


async def test_onboarding_writes_after_three_days_and_sends_what_the_model_wrote(both: Scene) -> None:
    """Each step is executed once, the model is asked once, and no time is spent but the three days."""
    both.calls.answer = lambda request: json_answer('{"text": "Dear Ada"}')
    sent: list[tuple[str, str]] = []

    @both.flow.serve("/onboarding")
    async def onboarding(ctx: WorkflowContext[NewUser]) -> str:
        user = ctx.payload
        await ctx.run("welcome", both.step("welcome", does=sent.append), (user.email, "welcome"))
        await ctx.sleep("three days", "3d")
        body = {"prompt": f"Write to {user.name}"}
        answer = await ctx.call("ask the model", "https://ai.test/complete", body=body, response=Completion)
        await ctx.run("letter", both.step("letter", does=sent.append), (user.email, answer.body.text))
        return answer.body.text

    begun = both.clock.now()
    ended = await both.to_the_end(onboarding.trigger(NewUser(name="Ada", email="ada@x.test")))
    assert (ended.state, ended.result) == ("completed", '"Dear Ada"')
    assert sent == [("ada@x.test", "welcome"), ("ada@x.test", "Dear Ada")]
    assert both.executed == {"welcome": 1, "letter": 1}
    assert [(it.method, it.body.text) for it in both.calls.requests] == [("POST", '{"prompt":"Write to Ada"}')]
    assert both.clock.now() - begun == 3 * DAY
