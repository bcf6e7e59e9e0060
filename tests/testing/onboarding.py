"""An app as a user's module makes it: with its own store and the machine's clock."""

from dataclasses import dataclass

from pydantic import BaseModel

from batchflow import Batchflow, RetryPolicy, WorkflowContext

flow = Batchflow("sqlite:///never-made.db")


class NewUser(BaseModel):
    email: str


@dataclass
class Mail:
    to: str
    text: str


OUTBOX: list[Mail] = []
"""What really left."""


async def send(to: str, text: str) -> str:
    OUTBOX.append(Mail(to, text))
    return f"{text} to {to}"


def count(words: str) -> int:
    return len(words.split())


@flow.serve("/onboarding", retry=RetryPolicy(retries=3, first="1m", factor=2))
async def onboarding(ctx: WorkflowContext[NewUser]) -> str:
    """Two mails with three days and a question in between."""
    await ctx.run("send-welcome", send, ctx.payload.email, "welcome")
    await ctx.sleep("three-days", "3d")
    answer = await ctx.call("ask", "https://api.example.com/active", body={"email": ctx.payload.email}, retries=2)
    if not answer.ok:
        return "nobody knows"
    await ctx.run("send-reminder", send, ctx.payload.email, text="reminder")
    return "welcomed"


@flow.serve("/approval")
async def approval(ctx: WorkflowContext[str]) -> str:
    """Waits for somebody's word, a week at most."""
    word = await ctx.wait_for_event("approve", f"approved:{ctx.payload}", timeout="7d", data=str)
    return "too late" if word.timed_out else word.data


@flow.serve("/parent")
async def parent(ctx: WorkflowContext[str]) -> str:
    """Leaves the work to a child."""
    return await ctx.invoke("child", approval, ctx.payload)


@flow.serve("/counting")
async def counting(ctx: WorkflowContext[str]) -> int:
    """A sync step and one more, and nothing that waits."""
    words = await ctx.run("count", count, ctx.payload)
    await ctx.run("tell", send, "the boss", f"{words} words")
    return words


@flow.batch(ids=[f"u{number}" for number in range(30)])
async def greet(user_id: str) -> str:
    """An item of a batch, under the limits of its class."""
    await send(user_id, "hello")
    return user_id.upper()
