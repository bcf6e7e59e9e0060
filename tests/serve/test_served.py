"""Registering a plain durable function: its signature is read once, and payload and result go through its types."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_type, cast

import pytest
from pydantic import BaseModel

from batchflow import Batchflow
from batchflow.core.codec import DEFAULT_SIZE_LIMIT
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.ports import Client
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, UnserializableError
from batchflow.serve.context import WorkflowContext
from batchflow.serve.declaration import serve_function
from batchflow.serve.functions import ServedFunction
from batchflow.testing import FlowEnv
from tests.serve.store_model import Model


class NewUser(BaseModel):
    email: str
    age: int = 0


@dataclass
class Welcome:
    text: str


class Publisher:
    """As much of a client as a trigger needs."""

    limit = DEFAULT_SIZE_LIMIT
    replaces_ended_runs = False

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def check_run(self, *options: object) -> None: ...

    def now(self) -> int:
        return 1_000

    def new_id(self, kind: str) -> str:
        return f"{kind}_1"

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        self.messages.extend(messages)
        return [True] * len(messages)


async def onboarding(ctx: WorkflowContext[NewUser]) -> Welcome:
    return Welcome(await ctx.run("greet", lambda: f"hello {ctx.payload.email}"))


class Service:
    async def onboarding(self, ctx: WorkflowContext[NewUser]) -> Welcome:
        return await onboarding(ctx)

    async def __call__(self, ctx: WorkflowContext[NewUser]) -> Welcome:
        return await onboarding(ctx)


async def with_more(greeting: str, ctx: WorkflowContext[NewUser], *, loud: bool = False) -> Welcome:
    return await onboarding(ctx)


def serve(function: Any, **options: Any) -> ServedFunction[Any, Any]:
    return serve_function(function, "/users/onboarding", client=cast(Client, Publisher()), **options)


@pytest.mark.parametrize(
    "function",
    [onboarding, Service().onboarding, Service(), functools.partial(with_more, "hello", loud=True)],
    ids=["function", "method", "callable object", "partial"],
)
async def test_payload_and_result_have_their_types(function: Any) -> None:
    """For functions of every shape."""
    served = serve(function)
    ending = await Model(payload='{"email": "a@b.c"}').drive(served.endpoint)
    assert (ending.ending, ending.result) == ("done", '{"text":"hello a@b.c"}')


async def test_types_are_inferred() -> None:
    """Payload and result of the function are those of what serves it."""
    served = serve_function(onboarding, "/onboarding", client=cast(Client, Publisher()))
    assert_type(served, ServedFunction[NewUser, Welcome])


async def test_the_endpoint_has_the_options() -> None:
    """The key is the route's words by default; an attempt may take an hour."""
    plain = serve(onboarding).endpoint
    assert (plain.route, plain.name, plain.timeout_ms) == ("/users/onboarding", "users.onboarding", 3_600_000)
    assert (plain.flow, plain.retry) == (FlowControl(key="users.onboarding"), RetryPolicy())
    own = serve(
        onboarding, retry=RetryPolicy.none(), flow_control=FlowControl(rate=5, key="mail"), timeout_ms=300_000
    ).endpoint
    assert (own.retry, own.flow, own.timeout_ms) == (RetryPolicy.none(), FlowControl(rate=5, key="mail"), 300_000)


async def test_a_trigger_publishes_a_run_that_is_kept() -> None:
    """Under the endpoint's flow key, with the payload's JSON."""
    client = Publisher()
    served = serve_function(onboarding, "/onboarding", client=cast(Client, client))
    handle = await served.trigger(NewUser(email="a@b.c"), headers={"trace": "7"})
    assert handle.id == "run_1"
    (message,) = client.messages
    assert message == Message(
        id="run_1",
        destination="/onboarding",
        flow=served.endpoint.flow,
        body='{"email":"a@b.c","age":0}',
        headers={"trace": "7"},
        keep=True,
    )
    with pytest.raises(UnserializableError, match="^the payload of '/onboarding': "):
        await served.trigger(cast(NewUser, "a@b.c"))


async def test_a_payload_that_does_not_fit_is_told() -> None:
    """Route, type and faults, without another attempt."""
    ending = await Model(payload='{"age": "old"}').drive(serve(onboarding).endpoint)
    assert (ending.ending, ending.error) == (
        "dead",
        "InputError: the payload of '/users/onboarding' is not a valid NewUser: email: Field required; "
        "age: Input should be a valid integer, unable to parse string as an integer",
    )


async def test_a_bare_context_takes_any_json() -> None:
    """Without a declared payload, it is plain data."""

    async def echo(ctx: WorkflowContext) -> Any:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]: the subject of the test
        return ctx.payload  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]: as above

    ending = await Model(payload='{"a": [1]}').drive(serve(echo).endpoint)
    assert ending.result == '{"a":[1]}'


def plain(ctx: WorkflowContext[NewUser]) -> None: ...
async def nothing() -> None: ...
async def two(ctx: WorkflowContext[NewUser], other: int) -> None: ...
async def named(*, ctx: WorkflowContext[NewUser]) -> None: ...
async def unannotated(ctx) -> None: ...  # type: ignore[no-untyped-def]  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
async def another(ctx: NewUser) -> None: ...
async def unknown(ctx: "WorkflowContext[Missing]") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]


WRITE = "write 'async def {}(ctx: WorkflowContext[Payload]) -> Result'"


WRONG: list[tuple[Any, str]] = [
    (plain, "'plain' is served as a durable function and is not async; " + WRITE.format("plain")),
    (nothing, "'nothing' is called with a context and nothing else, and takes nothing; " + WRITE.format("nothing")),
    (two, "'two' is called with a context and nothing else, and takes 'ctx', 'other'; " + WRITE.format("two")),
    (named, "'named' is called with a context and nothing else, and takes 'ctx'; " + WRITE.format("named")),
    (unannotated, "the parameter 'ctx' of 'unannotated' has no annotation; " + WRITE.format("unannotated")),
    (another, "the parameter 'ctx' of 'another' is a NewUser; " + WRITE.format("another")),
    (
        unknown,
        "the annotations of 'unknown' cannot be read (name 'Missing' is not defined); "
        "name types that can be imported there, outside TYPE_CHECKING",
    ),
]


@pytest.mark.parametrize(("function", "sentence"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_signature_is_refused(function: Any, sentence: str) -> None:
    """When it is registered, naming the function and what to write."""
    with pytest.raises(ConfigurationError) as caught:
        serve(function)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("route", ["", "onboarding", "/", "/on boarding", "/a//b", "/a/"])
def test_a_route_is_a_path(route: str) -> None:
    """Words with slashes before them."""
    with pytest.raises(ConfigurationError) as caught:
        serve_function(onboarding, route, client=cast(Client, Publisher()))
    assert str(caught.value) == f"'route' cannot be {route!r}; write a path such as '/onboarding'"


async def test_calling_a_served_function_calls_the_function(flow_env: FlowEnv) -> None:
    """With the context of another: its steps are steps of that run."""
    flow = Batchflow("sqlite://")

    @flow.serve("/mail/send")
    async def send(ctx: WorkflowContext[str]) -> str:
        return await ctx.run("send", str.upper, ctx.payload)

    @flow.serve("/welcome")
    async def welcome(ctx: WorkflowContext[str]) -> str:
        return await send(ctx)

    assert (repr(send), send.route, send.function.__name__) == ("ServedFunction('/mail/send')", "/mail/send", "send")
    async with flow_env(flow) as env:
        run = await env.run(welcome, "ada")
    assert (run.result, run.steps) == ("ADA", ["send"])


def test_an_app_is_shown_by_its_names() -> None:
    """A few of them; its URL may have a password."""
    flow = Batchflow("sqlite://")
    assert repr(flow) == "<Batchflow: no workflows>"
    for number in range(7):

        def size(item_id: str) -> int:
            return len(item_id)

        flow.batch(name=f"b{number}")(size)
    assert repr(flow) == "<Batchflow: b0, b1, b2, b3, b4, … and 2 more>"
