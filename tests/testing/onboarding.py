"""An app as a user's module makes it: with its own store and the machine's clock; and the same app on QStash."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from batchflow import Batchflow, QStash, RetryPolicy, WorkflowContext
from batchflow.batch.bound import Workflow
from batchflow.serve.functions import ServedFunction


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


async def onboard(ctx: WorkflowContext[NewUser]) -> str:
    """Two mails with three days and a question in between."""
    await ctx.run("send-welcome", send, ctx.payload.email, "welcome")
    await ctx.sleep("three-days", "3d")
    answer = await ctx.call("ask", "https://api.example.com/active", body={"email": ctx.payload.email}, retries=2)
    if not answer.ok:
        return "nobody knows"
    await ctx.run("send-reminder", send, ctx.payload.email, text="reminder")
    return "welcomed"


async def approve(ctx: WorkflowContext[str]) -> str:
    """Waits for somebody's word, a week at most."""
    word = await ctx.wait_for_event("approve", f"approved:{ctx.payload}", timeout="7d", data=str)
    return "too late" if word.timed_out else word.data


async def count_words(ctx: WorkflowContext[str]) -> int:
    """A sync step and one more, and nothing that waits."""
    words = await ctx.run("count", count, ctx.payload)
    await ctx.run("tell", send, "the boss", f"{words} words")
    return words


async def greet_user(user_id: str) -> str:
    """An item of a batch, under the limits of its class."""
    await send(user_id, "hello")
    return user_id.upper()


@dataclass(frozen=True)
class Programs:
    """The functions and the batch of one app."""

    flow: Batchflow
    onboarding: ServedFunction[NewUser, str]
    approval: ServedFunction[str, str]
    parent: ServedFunction[str, str]
    counting: ServedFunction[str, int]
    greet: Workflow[Any, str]


def programs_of(flow: Batchflow) -> Programs:
    """Declare them."""
    approval = flow.serve("/approval")(approve)

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[str]) -> str:
        """Leaves the work to a child."""
        return await ctx.invoke("child", approval, ctx.payload)

    return Programs(
        flow,
        flow.serve("/onboarding", retry=RetryPolicy(retries=3, first="1m", factor=2))(onboard),
        approval,
        parent,
        flow.serve("/counting")(count_words),
        flow.batch(name="greet", ids=[f"u{number}" for number in range(30)])(greet_user),
    )


OWN = programs_of(Batchflow("sqlite:///never-made.db"))

ON_QSTASH = programs_of(
    Batchflow(
        QStash(
            # Nobody answers there.
            url="https://qstash.invalid",
            token="not-a-token",
            current_signing_key="sig_1",
            next_signing_key="sig_2",
            store="sqlite:///never-made.db",
        )
    )
)

flow, onboarding, approval, greet = OWN.flow, OWN.onboarding, OWN.approval, OWN.greet
