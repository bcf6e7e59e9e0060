"""What a function asks its context for wrongly ends the run at once, with a sentence that says what to write."""

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, HttpUrl

from batchflow import Batchflow, FlowControl, WorkflowContext
from batchflow.errors import UnserializableError
from batchflow.serve.calls import build_call_request
from batchflow.serve.waits import serialize_event_data
from batchflow.testing import ManualClock, drive
from tests.scenarios.scenario_app import Answering

HALF = "\ud800"
"""Half of a surrogate pair, which no UTF-8 text holds."""
KEY = "a\ud800b"
A_COROUTINE = "write the function without (), and its arguments after it: ctx.run('x', "


async def charge(order: str = "A1") -> str:
    return order


class Reading(BaseModel):
    value: float
    at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    tags: set[str] = set()


class Spelled(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    value: float


@dataclasses.dataclass
class Plain:
    value: float


Ask = Callable[[Any], Awaitable[Any]]


async def ended(ask: Ask) -> str:
    """Return the error of a run that makes this request, after one attempt; empty if it completes or waits."""
    clock = ManualClock()
    flow = Batchflow("sqlite://", clock=clock, worker=False)
    flow.engine.caller = Answering()

    @flow.serve("/asks")
    async def asks(ctx: WorkflowContext[None]) -> None:
        await ask(ctx)

    flow.serve("/child")(child)
    async with flow:
        run = await asks.trigger(None)
        begun = clock.now()
        await drive(flow, clock, until=begun)
        status = await run.status()
        if status.state != "failed":
            return ""
        assert status.failures <= 1
        assert status.error is not None
        return status.error.splitlines()[0]


async def child(ctx: WorkflowContext[int]) -> int:
    return ctx.payload


STEPS: dict[str, tuple[Ask, str]] = {
    "a number": (
        lambda ctx: ctx.run("x", 5),
        f"ConfigurationError: step 'x' cannot call 5; {A_COROUTINE}fn, …)",
    ),
    "a coroutine": (
        lambda ctx: ctx.run("x", charge("A1")),
        f"ConfigurationError: step 'x' cannot call the coroutine 'charge'; {A_COROUTINE}charge, …)",
    ),
    "a coroutine, with options": (
        lambda ctx: ctx.step(retry=None).run("x", charge("A1")),
        f"ConfigurationError: step 'x' cannot call the coroutine 'charge'; {A_COROUTINE}charge, …)",
    ),
    "a number of retries": (
        lambda ctx: ctx.step(retry=3).run("x", charge),
        "ConfigurationError: 'retry' cannot be 3; write a policy, such as RetryPolicy(retries=3)",
    ),
    "no time at all": (
        lambda ctx: ctx.step(timeout=0).run("x", charge),
        "ConfigurationError: 'timeout' cannot be 0; write a duration such as '30s', or leave it out",
    ),
}

WAITS: dict[str, tuple[Ask, str]] = {
    "invoke: a function that is not served": (
        lambda ctx: ctx.invoke("x", charge, 1),
        "ConfigurationError: step 'x' cannot invoke the function 'charge'; write the function that @flow.serve "
        "returned, or the batch that flow.add did",
    ),
    "invoke: a route": (
        lambda ctx: ctx.invoke("x", "/child", 1),
        "ConfigurationError: step 'x' cannot invoke '/child'; write the function that @flow.serve returned, "
        "or the batch that flow.add did",
    ),
    "webhook: its URL": (
        lambda ctx: ctx.wait_for_webhook("x", "https://x.test/webhooks/secret"),
        "ConfigurationError: step 'x' cannot wait for a text; write the whole of what ctx.create_webhook returned, "
        "not its URL",
    ),
    "first: a list": (
        lambda ctx: ctx.first([ctx.sleep("a", 1), ctx.sleep("b", 2)]),
        "ConfigurationError: ctx.first takes its waits one by one, not in a list; write ctx.first(*waits)",
    ),
    "first: a number beside a wait": (
        lambda ctx: ctx.first(ctx.sleep("a", 1), 5),
        "ConfigurationError: ctx.first cannot wait for 5; write waits, without 'await' before them, such as "
        "ctx.first(ctx.sleep(…), ctx.wait_for_event(…))",
    ),
    "sleep_until: seconds": (
        lambda ctx: ctx.sleep_until("x", 1_900_000_000),
        "ConfigurationError: 'when' cannot be 1900000000, which looks like seconds (in ms it was before 1974); "
        "write a datetime with its time zone, or ms: 1900000000000",
    ),
    "sleep_until: the end of time": (
        lambda ctx: ctx.sleep_until("x", 10**20),
        "ConfigurationError: 'when' cannot be 100000000000000000000, which is after the year 9999; "
        "write a datetime with its time zone, or milliseconds since the epoch",
    ),
    "event: half of a character": (
        lambda ctx: ctx.wait_for_event("x", KEY),
        "InputError: the event id 'a\\ud800b' has no form in UTF-8; write another",
    ),
    "event: a number": (
        lambda ctx: ctx.notify("x", 5),
        "InputError: an event id is a text of 1 to 500 characters, not 5",
    ),
    "notify: a handle": (
        lambda ctx: ctx.notify("x", "e", run_id=Handle()),
        "InputError: 'run_id' cannot be Handle() (its id is 'run_7'); write the id of a run, such as the id of its "
        "handle",
    ),
    "notify: half of a character": (
        lambda ctx: ctx.notify("x", "e", run_id=HALF),
        "InputError: 'run_id' cannot be '\\ud800', which has no form in UTF-8; write the id of a run, such as the id "
        "of its handle",
    ),
    "notify: NaN": (
        lambda ctx: ctx.notify("x", "e", {"a": [math.nan]}),
        "UnserializableError: the data of event 'e': dict does not survive JSON: the float at ['a'][0] is nan; "
        "JSON knows no such number, use None or text in its place",
    ),
}

CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "headers: a list": (
        {"headers": [("authorization", "secret")]},
        "'headers' cannot be a list; write names and texts, such as {'name': 'text'}",
    ),
    "headers: None": ({"headers": {"a": None}}, "'headers' has None for 'a'; write text, or leave it out"),
    "headers: a number": ({"headers": {"a": 1}}, "'headers' has an int for 'a'; write text, or leave it out"),
    "headers: a name": ({"headers": {1: "a"}}, "'headers' has the name 1; names are texts"),
    "headers: half of a character": (
        {"headers": {"a": HALF}},
        "'headers' has a text for 'a' that has no form in UTF-8; write another",
    ),
    "headers: no name of a header": (
        {"headers": {"x tenant": "a"}},
        "'headers' has 'x tenant', which is not a header name; write 'x-tenant' or the like",
    ),
    "headers: two lines": (
        {"headers": {"a": "secret\r\nb: c"}},
        "'headers' has a line break or control character in 'a'; write one line",
    ),
    "limits": (
        {"flow_control": 5},
        "'flow_control' cannot be 5; write limits, such as FlowControl(parallelism=10, rate=5)",
    ),
    "limits without a key": (
        {"flow_control": FlowControl(rate=1)},
        "FlowControl(parallelism=None, rate=1, period='1s', key=None) names no key; "
        "write FlowControl(key='…', …) to say what shares these limits",
    ),
    "response": (
        {"response": 5},
        "5 has no JSON form: pydantic has none; declare a model, a dataclass or plain data",
    ),
    "method": (
        {"method": 5},
        "call 'x' cannot have the method 5; write one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
    ),
    "retries": ({"retries": "3"}, "'retries' cannot be '3'; write a whole number of 0 or more, such as 3"),
    "an option that is none": ({"respons": str}, "ctx.call takes no option 'respons'; did you mean 'response'?"),
    "another": (
        {"verb": "PUT"},
        "ctx.call takes no option 'verb'; known are 'body', 'flow_control', 'headers', 'method', 'response', "
        "'retries', 'retry_delay', 'timeout', 'url'",
    ),
}

URLS: dict[str, tuple[Any, str]] = {
    "a host in brackets": ("http://[::1", "'http://[::1'"),
    "no port": ("http://x:port/", "'http://x:port/'"),
    "a number": (5, "5"),
    "half of a character": (f"https://x.test/{HALF}", "'https://x.test/\\ud800'"),
    "two lines": ("https://x.test/\na", "'https://x.test/\\na'"),
    "a password": ("ftp://me:secret@x.test/a@b", "'ftp://x.test/a@b'"),
    "an object": (HttpUrl("https://me:secret@x.test"), "a HttpUrl"),
}


class Handle:
    """Stands for what has an id."""

    id = "run_7"

    def __repr__(self) -> str:
        return "Handle()"


@pytest.mark.parametrize(("ask", "sentence"), [*STEPS.values(), *WAITS.values()], ids=[*STEPS, *WAITS])
async def test_a_wrong_argument_ends_the_run_at_once(ask: Ask, sentence: str) -> None:
    """No attempt is made again, and no coroutine is left that nobody awaited: warnings are errors here."""
    assert await ended(ask) == sentence


@pytest.mark.parametrize(("options", "sentence"), CALLS.values(), ids=CALLS)
async def test_a_wrong_option_of_a_call_is_refused_before_it_is_made(options: dict[str, Any], sentence: str) -> None:
    """Nothing is sent."""
    assert await ended(lambda ctx: ctx.call("x", "https://x.test", **options)) == f"ConfigurationError: {sentence}"


@pytest.mark.parametrize(("url", "shown"), URLS.values(), ids=URLS)
async def test_a_wrong_url_of_a_call_is_shown_without_its_password(url: Any, shown: str) -> None:
    """For every wrong value."""
    assert await ended(lambda ctx: ctx.call("x", url)) == (
        f"ConfigurationError: call 'x' cannot go to {shown}; write an absolute URL, such as https://example.com/x"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"headers": {"a": 1}}, "ConfigurationError: 'headers' has an int for 'a'; write text, or leave it out"),
        ({"label": KEY}, "InputError: a label cannot be 'a\\ud800b', which has no form in UTF-8; write "),
        ({"label": 5}, "InputError: a label cannot be 5; write a text of 1 to 200 characters"),
        ({"flow_control": {"rate": 1}}, "ConfigurationError: 'flow_control' cannot be {'rate': 1}; write limits, "),
        ({"retries": -1}, "ConfigurationError: 'retries' cannot be -1; write a whole number of 0 or more, such as 3"),
    ],
)
async def test_a_wrong_option_of_a_child_ends_its_parent(options: dict[str, Any], sentence: str) -> None:
    """Before the child is started."""
    flow = Batchflow("sqlite://", worker=False)
    served = flow.serve("/child")(child)
    error = await ended(lambda ctx: ctx.invoke("x", served, 1, **options))
    assert error.startswith(sentence)


async def test_a_call_is_given_its_url_by_name() -> None:
    """As the Python SDK of Upstash Workflow has it."""
    assert await ended(lambda ctx: ctx.call("x", url="https://x.test")) == ""


async def test_the_data_of_an_event_is_given_by_name() -> None:
    """As to `flow.notify`."""
    assert await ended(lambda ctx: ctx.notify("x", "e", data={"a": 1})) == ""


async def test_no_coroutine_is_left_of_a_first_that_is_refused() -> None:
    """Those that were given are closed, in a list or not."""
    one, other = asyncio.sleep(0), asyncio.sleep(0)
    assert "one by one" in await ended(lambda ctx: ctx.first(one, [other]))
    assert (one.cr_frame, other.cr_frame) == (None, None)


# What is sent


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (math.nan, "it is nan"),
        ({"a": {1, 2}}, "the set at ['a'] comes back as list"),
        ((1, 2), "it comes back as list"),
        ({1: "a"}, "it has a key that is int and comes back as str"),
        ([b"a"], "the bytes at [0] comes back as str"),
        (HALF, "it cannot be written"),
        ({"a": [Reading(value=math.inf)]}, "the float at .value is inf"),
        (object(), "it holds object, which has no JSON form"),
    ],
)
def test_data_that_would_arrive_changed_is_refused(data: object, fault: str) -> None:
    """The sentence names the event."""
    with pytest.raises(UnserializableError) as caught:
        serialize_event_data(data, "paid")
    assert str(caught.value).startswith("the data of event 'paid': ")
    assert f" does not survive JSON: {fault}" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "null"),
        ({"a": [1, 2.5, None, "x"]}, '{"a":[1,2.5,null,"x"]}'),
        (Reading(value=1), '{"value":1.0,"at":"2024-01-01T00:00:00Z","tags":[]}'),
        ([Plain(1)], '[{"value":1.0}]'),
        ({"at": datetime(2024, 1, 1, tzinfo=UTC)}, '{"at":"2024-01-01T00:00:00Z"}'),
    ],
    ids=repr,
)
def test_data_goes_as_its_types_write_it(data: object, text: str) -> None:
    """Models, dataclasses and times may be read as such by who waits."""
    assert serialize_event_data(data, "paid") == text


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("held", "place"),
    [
        ("bare", "it"),
        ("list", "the float at ['a'][0]"),
        ("model", "the float at [0]['value']"),
        ("dataclass", "the float at ['value']"),
    ],
)
def test_a_call_sends_no_number_that_is_none(held: str, place: str, number: float) -> None:
    """JSON has none: it would go as null, or as what no reader takes."""
    bodies = {"bare": number, "list": {"a": [number]}, "model": [Reading(value=number)], "dataclass": Plain(number)}
    with pytest.raises(UnserializableError) as caught:
        build_call_request("ask", "https://x.test", body=bodies[held])
    assert str(caught.value) == (
        f"the body of call 'ask' has no JSON form: {place} is {number}; "
        f"JSON knows no such number, use None or text in its place"
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"NaN": None, "Infinity": [None]}, '{"NaN":null,"Infinity":[null]}'),
        (Spelled(value=math.nan), '{"value":"NaN"}'),
        ({1}, "[1]"),
    ],
)
def test_a_call_sends_what_its_types_write(body: object, text: str) -> None:
    """The words alone are no fault, and a model may spell out its numbers."""
    assert build_call_request("ask", "https://x.test", body=body).body.text == text


def test_a_call_sends_no_half_of_a_character() -> None:
    """Neither as text nor in JSON."""
    for body in (HALF, {"a": HALF}):
        with pytest.raises(UnserializableError, match="^the body of call 'ask' "):
            build_call_request("ask", "https://x.test", body=body)


# Times


@pytest.mark.parametrize(
    "when",
    [
        1_600_000_000_000,
        100_000_000_000,
        datetime(1970, 1, 2, tzinfo=UTC),
        datetime(1960, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    ],
    ids=str,
)
async def test_a_time_that_has_passed_is_none_the_worse(when: Any) -> None:
    """It goes on at once."""
    assert await ended(lambda ctx: ctx.sleep_until("x", when)) == ""
