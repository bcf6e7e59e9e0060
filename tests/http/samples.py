"""Workflows that the HTTP tests serve."""

from collections.abc import Sequence
from typing import Any

from httpx import AsyncClient, Response
from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, NonRetryable, NoParams, Page, RetryAfter, WorkflowContext
from batchflow.serve.waits import WebhookRequest

USERS = [f"u{number:03d}" for number in range(60)]
PREFIX = "/api/workflows"


class Region(BaseModel):
    """A parameter that contains itself."""

    name: str = "all"
    within: "Region | None" = None


class Params(BaseModel):
    """The parameters of `welcome`."""

    paid_only: bool = False
    ratio: float = 1.0
    region: Region = Region()


class Welcome(BatchWorkflow[Params, str, str]):
    """60 users, of whom every second one has paid."""

    name = "welcome"
    entity = "user"
    execute_verb = "generate"
    page_size = 25
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        users = USERS[::2] if params.paid_only else USERS
        start = int(cursor or 0)
        end = start + limit
        return Page(ids=users[start:end], next_cursor=str(end) if end < len(users) else None)

    async def execute(self, user_id: str) -> str:
        if user_id == "u013":
            raise NonRetryable("no placeholders for u013")
        return user_id.upper()


class Limited(BatchWorkflow[NoParams, str, str]):
    """Its source raises `RetryAfter` or `NonRetryable`."""

    name = "limited"
    fault: Exception = RetryAfter(2.5, "the source is resting")

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        raise self.fault

    async def execute(self, item_id: str) -> str:
        return item_id


class NewUser(BaseModel):
    """The payload of `onboarding`."""

    email: str
    invited_by: str | None = None


def address_line(text: str) -> NewUser:
    """A body such as "mail: ada@example.org"."""
    _, email = text.split(": ")
    return NewUser(email=email)


def serve_all(flow: Batchflow) -> None:
    """Add all workflows and functions."""
    flow.add(Welcome())
    flow.add(Limited())

    @flow.batch
    async def greet(item_id: str) -> str:
        return f"Hello, {item_id}"

    @flow.serve("/onboarding")
    async def onboarding(ctx: WorkflowContext[NewUser]) -> dict[str, str]:
        if "@" not in ctx.payload.email:
            raise NonRetryable("that is no address")
        return {"welcomed": ctx.payload.email}

    @flow.serve("/nightly/cleanup")
    async def cleanup(ctx: WorkflowContext[int | None]) -> Sequence[int]:
        return [ctx.payload or 0]

    @flow.serve("/approvals", label="approval")
    async def approvals(ctx: WorkflowContext[str]) -> Any:
        await ctx.run("prepare", str.upper, ctx.payload)
        return (await ctx.wait_for_event("decided", f"approval:{ctx.payload}/1")).data

    @flow.serve("/hooked")
    async def hooked(ctx: WorkflowContext[int]) -> list[WebhookRequest]:
        webhook = await ctx.create_webhook("make")
        return [(await ctx.wait_for_webhook(f"request {it}", webhook)).data for it in range(ctx.payload)]

    @flow.serve("/signup", initial_payload_parser=address_line)
    async def signup(ctx: WorkflowContext[NewUser]) -> str:
        return ctx.payload.email

    assert [it.endpoint.name for it in (approvals, hooked, signup)] == ["approvals", "hooked", "signup"]
    assert greet.name == "greet"
    assert onboarding.endpoint.route == "/onboarding"
    assert cleanup.endpoint.name == "nightly.cleanup"


def error_of(response: Response) -> tuple[int, Any, Any]:
    """Status, sentence and field of an error response, which has nothing else."""
    body = response.json()
    assert body.pop("success") is False
    error, field = body.pop("error"), body.pop("field", None)
    assert body == {}
    return response.status_code, error, field


def assert_error(response: Response, expected: tuple[int, str, str | None]) -> None:
    """Status and field are those expected, and the sentence contains the phrase."""
    status, error, field = error_of(response)
    assert (status, field) == (expected[0], expected[2])
    assert expected[1] in error


async def started(http: AsyncClient, **body: Any) -> str:
    """The id of a new batch of users."""
    response = await http.post("/welcome/process-users", json=body)
    assert response.status_code == 202
    return response.json()["batchId"]
