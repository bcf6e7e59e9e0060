"""Wrong options and arguments of an app's own methods are one sentence, when they are written down or given."""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, RetryPolicy, WorkflowContext
from batchflow.core.call import CallRequest
from batchflow.engine.caller import HttpCaller
from batchflow.errors import BatchflowError, ConfigurationError, InputError, UnserializableError
from batchflow.serve.functions import ServedFunction
from batchflow.testing import ManualClock, drive

KEY = "a\ud800b"
"""Half of a surrogate pair, which no UTF-8 text holds."""
NOT_SERVED = "'function' cannot be the function 'echo'; write the function that @flow.serve returned"
NO_ID = "write the id of a run, such as the id of its handle"
NO_PARSER = "write a plain function of a request's body: def parse(text: str) -> Payload"
NO_LIMITS = "write limits, such as FlowControl(parallelism=10, rate=5)"


async def echo(ctx: WorkflowContext[int]) -> int:
    return ctx.payload


def parse(text: str, base: int = 10) -> int:
    return int(text, base)


async def parse_later(text: str) -> int:
    return int(text)


SERVING: list[tuple[dict[str, Any], str]] = [
    ({"retry": 3}, "'retry' cannot be 3; write a policy, such as RetryPolicy(retries=3)"),
    (
        {"retry": RetryPolicy},
        "'retry' cannot be the class 'RetryPolicy'; write a policy, such as RetryPolicy(retries=3)",
    ),
    ({"retries": "3"}, "'retries' cannot be '3'; write a whole number of 0 or more, such as 3"),
    ({"flow_control": 5}, f"'flow_control' cannot be 5; {NO_LIMITS}"),
    ({"flow_control": {"rate": 5}}, f"'flow_control' cannot be {{'rate': 5}}; {NO_LIMITS}"),
    ({"env": "A=1"}, "'env' cannot be a str; write names and texts, such as {'name': 'text'}"),
    ({"env": {"A": 1}}, "'env' has an int for 'A'; write text, or leave it out"),
    ({"env": {"A": None}}, "'env' has None for 'A'; write text, or leave it out"),
    ({"verbose": "yes"}, "'verbose' cannot be 'yes'; write True or False"),
    ({"verbose": None}, "'verbose' cannot be None; write True or False"),
    ({"timeout": 0}, "'timeout' cannot be 0; write a duration such as '30s', or leave it out"),
    ({"timeout": "0s"}, "'timeout' cannot be '0s'; write a duration such as '30s', or leave it out"),
    (
        {"timeout": -1},
        "'timeout' cannot be -1, which is negative; write seconds such as 10, text such as '500ms', '10s', '2h30m' "
        "or '7d', or a timedelta",
    ),
    ({"label": ""}, "a label has 1 to 200 characters, not 0"),
    ({"label": 3}, "a label cannot be 3; write a text of 1 to 200 characters"),
    (
        {"label": KEY},
        "a label cannot be 'a\\ud800b', which has no form in UTF-8; write a text of 1 to 200 characters",
    ),
    (
        {"initial_payload_parser": parse_later},
        f"'initial_payload_parser' cannot be the function 'parse_later', which is async; {NO_PARSER}",
    ),
    (
        {"initial_payload_parser": lambda: 1},
        f"'initial_payload_parser' cannot be the function '<lambda>', which does not take one argument; {NO_PARSER}",
    ),
    ({"initial_payload_parser": 1}, f"'initial_payload_parser' cannot be 1, which cannot be called; {NO_PARSER}"),
    ({"url": 3}, "'url' cannot be 3; write an absolute URL, such as https://app.example.com"),
    ({"url": "/x"}, "'url' cannot be '/x'; write an absolute URL, such as https://app.example.com"),
    ({"url": "https://x y"}, "'url' cannot be 'https://x y'; write an absolute URL, such as https://app.example.com"),
    ({"url": "http://[::1"}, "'url' cannot be 'http://[::1'; write an absolute URL, such as https://app.example.com"),
    ({"url": "https://x/a?b=1"}, "'url' cannot be 'https://x/a?…'; write it without a query and a fragment"),
    (
        {"base_url": "https://me:secret@x/a#b"},
        "'base_url' cannot be 'https://x/a#…'; write it without a query and a fragment",
    ),
    ({"failure_function": 5}, "'failure_function' cannot be 5; write a function"),
]

ROUTES: list[tuple[Any, str]] = [
    (3, "'route' cannot be 3; write a path such as '/onboarding'"),
    (None, "'route' cannot be None; write a path such as '/onboarding'"),
    ("/a\ud800", "'route' cannot be '/a\\ud800'; write a path such as '/onboarding'"),
    (echo, "the function 'echo' is given no route to be served at; write @flow.serve('/route')"),
]

TRIGGERS: list[tuple[dict[str, Any], type[BatchflowError], str]] = [
    ({"run_id": 5}, InputError, "'run_id' cannot be 5; write 1 to 128 letters, digits, '_', '-' and ':'"),
    ({"run_id": KEY}, InputError, "'run_id' cannot be 'a\\ud800b'; write 1 to 128 letters, digits, '_', '-' and ':'"),
    ({"dedup_id": 5}, InputError, "'dedup_id' cannot be 5; write what the run is for, as text"),
    (
        {"dedup_id": KEY},
        InputError,
        "'dedup_id' cannot be 'a\\ud800b', which has no form in UTF-8; write what the run is for, as text",
    ),
    ({"label": 5}, InputError, "a label cannot be 5; write a text of 1 to 200 characters"),
    ({"label": ""}, InputError, "a label has 1 to 200 characters, not 0"),
    (
        {"label": KEY},
        InputError,
        "a label cannot be 'a\\ud800b', which has no form in UTF-8; write a text of 1 to 200 characters",
    ),
    (
        {"headers": ["a"]},
        ConfigurationError,
        "'headers' cannot be a list; write names and texts, such as {'name': 'text'}",
    ),
    ({"headers": {"a": 1}}, ConfigurationError, "'headers' has an int for 'a'; write text, or leave it out"),
    (
        {"headers": {"a": KEY}},
        ConfigurationError,
        "'headers' has a text for 'a' that has no form in UTF-8; write another",
    ),
    ({"flow_control": 5}, ConfigurationError, f"'flow_control' cannot be 5; {NO_LIMITS}"),
    (
        {"not_before": 1_900_000_000},
        ConfigurationError,
        "'not_before' cannot be 1900000000, which looks like seconds (in ms it was before 1974); write a datetime "
        "with its time zone, or ms: 1900000000000",
    ),
    (
        {"not_before": 10**20},
        ConfigurationError,
        "'not_before' cannot be 100000000000000000000, which is after the year 9999; write a datetime with its time "
        "zone, or milliseconds since the epoch",
    ),
    (
        {"not_before": "tomorrow"},
        ConfigurationError,
        "'not_before' cannot be 'tomorrow'; write a datetime with its time zone, such as "
        "datetime(2030, 1, 1, tzinfo=timezone.utc), or milliseconds since the epoch",
    ),
    (
        {"delay": "soon"},
        ConfigurationError,
        "'delay' cannot be 'soon', which is not a duration; write seconds such as 10, text such as '500ms', '10s', "
        "'2h30m' or '7d', or a timedelta",
    ),
]


class Handle:
    """Stands for what has an id."""

    id = "run_7"

    def __repr__(self) -> str:
        return "Handle()"


Ask = Callable[[Any], Awaitable[Any]]

ASKED: dict[str, tuple[Ask, str]] = {
    "trigger: a function that is not served": (lambda flow: flow.trigger(echo, 1), NOT_SERVED),
    "trigger: a route": (
        lambda flow: flow.trigger("/echo", 1),
        "'function' cannot be '/echo'; write the function that @flow.serve returned",
    ),
    "trigger_many": (lambda flow: flow.trigger_many(echo, [1]), NOT_SERVED),
    "runs: a function that is not served": (lambda flow: flow.runs(function=echo), NOT_SERVED),
    "runs: a limit as text": (
        lambda flow: flow.runs(limit="5"),
        "'limit' cannot be '5'; write a number from 1 to 1,000",
    ),
    "runs: a limit that is none": (
        lambda flow: flow.runs(limit=True),
        "'limit' cannot be True; write a number from 1 to 1,000",
    ),
    "runs: a cursor": (
        lambda flow: flow.runs(cursor=5),
        "'cursor' cannot be 5; write the nextCursor of the page before",
    ),
    "runs: a cursor of half of a character": (
        lambda flow: flow.runs(cursor="5.\ud800"),
        "'cursor' cannot be '5.\\ud800'; write the nextCursor of the page before",
    ),
    "runs: a label": (lambda flow: flow.runs(label=5), "'label' cannot be 5; write the label of a run, as text"),
    "runs: a state": (
        lambda flow: flow.runs(state=[]),
        "'state' cannot be []; write one of waiting, running, completed, failed, cancelled",
    ),
    "run: a handle": (lambda flow: flow.run(Handle()), f"'id' cannot be Handle() (its id is 'run_7'); {NO_ID}"),
    "run: half of a character": (
        lambda flow: flow.run(KEY),
        f"'id' cannot be 'a\\ud800b', which has no form in UTF-8; {NO_ID}",
    ),
    "cancel: a handle": (
        lambda flow: flow.cancel(Handle()),
        f"'ids' cannot be Handle() (its id is 'run_7'); {NO_ID}",
    ),
    "cancel: handles": (
        lambda flow: flow.cancel(["run_1", Handle()]),
        f"'ids' cannot be Handle() (its id is 'run_7'); {NO_ID}",
    ),
    "cancel: a label": (lambda flow: flow.cancel(label=5), "'label' cannot be 5; write the label of a run, as text"),
    "cancel: a function": (lambda flow: flow.cancel(function=echo), NOT_SERVED),
    "notify: a handle": (
        lambda flow: flow.notify("e", run_id=Handle()),
        f"'run_id' cannot be Handle() (its id is 'run_7'); {NO_ID}",
    ),
    "notify: half of a character": (
        lambda flow: flow.notify(KEY),
        "the event id 'a\\ud800b' has no form in UTF-8; write another",
    ),
    "waiters": (lambda flow: flow.waiters(5), "an event id is a text of 1 to 500 characters, not 5"),
}


@pytest.fixture
async def flow() -> AsyncGenerator[Batchflow]:
    async with Batchflow("sqlite://", clock=ManualClock(), worker=False) as made:
        yield made


@pytest.fixture
def served(flow: Batchflow) -> ServedFunction[int, int]:
    return flow.serve("/echo")(echo)


@pytest.mark.parametrize(("options", "sentence"), SERVING)
def test_a_wrong_option_is_refused_where_the_function_is_decorated(options: dict[str, Any], sentence: str) -> None:
    """And not by its first run."""
    with pytest.raises(ConfigurationError) as caught:
        Batchflow("sqlite://").serve("/echo", **options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("route", "sentence"), ROUTES)
def test_a_wrong_route_is_refused_before_it_is_given_a_function(route: Any, sentence: str) -> None:
    """`@flow.serve` without parentheses would serve nothing."""
    with pytest.raises(ConfigurationError) as caught:
        Batchflow("sqlite://").serve(route)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "options",
    [
        {"retry": RetryPolicy(), "flow_control": FlowControl(), "timeout": "1ms", "label": "x" * 200, "verbose": True},
        {"retries": 0, "retry_delay": "5s", "env": {"A": "1", "B": "\udcff"}, "url": "http://me:pw@[::1]:8000/a/"},
        {"initial_payload_parser": int, "base_url": "https://x"},
        {"initial_payload_parser": parse},
        {"retry": None, "flow_control": None, "timeout": None, "label": None, "env": None, "url": None},
    ],
    ids=", ".join,
)
def test_what_fits_is_taken(options: dict[str, Any]) -> None:
    """Variables of a process may hold anything that the system lets through."""
    assert Batchflow("sqlite://").serve("/echo", **options)(echo).label == options.get("label")


@pytest.mark.parametrize(("options", "kind", "sentence"), TRIGGERS, ids=repr)
async def test_a_wrong_option_of_a_trigger_starts_nothing(
    flow: Batchflow,
    served: ServedFunction[int, int],
    options: dict[str, Any],
    kind: type[BatchflowError],
    sentence: str,
) -> None:
    """The name of a run is the caller's input, everything else a matter of how the call is written."""
    for ask in (lambda: served.trigger(1, **options), lambda: flow.trigger(served, 1, **options)):
        with pytest.raises(kind) as caught:
            await ask()
        assert (type(caught.value), str(caught.value)) == (kind, sentence)
    assert (await flow.runs()).runs == []


@pytest.mark.parametrize(("ask", "sentence"), ASKED.values(), ids=ASKED)
async def test_a_wrong_question_says_what_to_ask(flow: Batchflow, ask: Ask, sentence: str) -> None:
    """Nothing is started, told or cancelled."""
    with pytest.raises(InputError) as caught:
        await ask(flow)
    assert str(caught.value) == sentence


async def test_data_that_would_arrive_changed_is_not_sent(flow: Batchflow) -> None:
    """NaN would be null, a set a list."""
    faults: Mapping[Any, str] = {math.nan: "it is nan", frozenset({1}): "it comes back as list"}
    for data, fault in faults.items():
        with pytest.raises(UnserializableError, match=f"^the data of event 'paid': .*: {fault}; "):
            await flow.notify("paid", data)


async def test_a_clock_that_stands_in_no_era_takes_small_times(served: ServedFunction[int, int]) -> None:
    """Tests may count from 0."""
    clock = ManualClock(0)
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        run = await flow.serve("/echo")(echo).trigger(1, not_before=5_000)
        await drive(flow, clock)
        assert (await run.status()).started_at == 5_000


async def test_an_unanswered_call_shows_no_password() -> None:
    """Neither where there is no connection, nor in what is said of its answer."""

    faults = {
        "no answer of https://x.test/a: ConnectionError: refused": ConnectionError("refused"),
        "no answer of https://x.test/a within 2h": TimeoutError(),
    }

    class Refusing(HttpCaller):
        async def call(self, request: CallRequest, id: str, *, follow_redirects: bool = True) -> Any:
            raise faults[sentence]

    clock = ManualClock()
    flow = Batchflow("sqlite://", clock=clock, worker=False)
    flow.engine.caller = Refusing()

    @flow.serve("/asks")
    async def asks(ctx: WorkflowContext[str]) -> None:
        await ctx.call("ask", ctx.payload)

    async with flow:
        for sentence in faults:
            run = await asks.trigger("https://me:secret@x.test/a")
            await drive(flow, clock)
            shown = (await run.status()).error or ""
            assert sentence in shown
            assert "secret" not in shown


def test_options_of_a_batch_have_their_names_checked() -> None:
    """As those of `flow.serve`."""
    flow: Any = Batchflow("sqlite://")
    with pytest.raises(ConfigurationError, match="^flow.batch takes no option 'retires'; did you mean 'retry'[?]$"):
        flow.batch(retires=3)
    with pytest.raises(
        ConfigurationError, match="^flow.batch cannot take '/route'; write @flow.batch above a function"
    ):
        flow.batch("/route")


ARGUMENTS: list[tuple[Callable[[], object], str]] = [
    (lambda: make(FlowControl, concurrency=5), "FlowControl takes no option 'concurrency'; write parallelism=…"),
    (lambda: make(FlowControl, paralelism=5), "FlowControl takes no option 'paralelism'; did you mean 'parallelism'?"),
    (lambda: make(FlowControl, 5), "FlowControl takes no values without their names, and got 1; write FlowControl(par"),
    (lambda: make(RetryPolicy, attempts=5), "RetryPolicy takes no option 'attempts'; write retries=…"),
    (lambda: make(Page, item={}), "Page takes no option 'item'; write items={id: item}"),
    (lambda: make(Page, cursor="a"), "Page takes no option 'cursor'; write next_cursor=…"),
    (lambda: make(Page, [], "", {}, 1), "Page takes 3 values without their names, and got 4"),
    (lambda: make(Batchflow, url="sqlite://"), "Batchflow takes no option 'url'; write the URL without a name"),
    (lambda: make(Batchflow("sqlite://").serve, "/a", max_retries=5), "no option 'max_retries'; write retries=…"),
    (lambda: make(Batchflow("sqlite://").batch, max_attempts=5), "no option 'max_attempts'; write retry=RetryPolicy("),
    (lambda: make(Batchflow, concurency=5), "Batchflow takes no option 'concurency'; did you mean 'concurrency'?"),
    (lambda: make(Batchflow("sqlite://").batch, concurrency=5), "write flow=FlowControl(parallelism=…)"),
    (lambda: make(Batchflow("sqlite://").batch, pagesize=5), "did you mean 'page_size'?"),
    (lambda: make(Batchflow("sqlite://").serve, "/a", flow=5), "write flow_control=FlowControl(…)"),
    (lambda: make(Batchflow("sqlite://").add, Items), "flow.add takes an object, not its class; write flow.add(Items"),
    (lambda: make(Batchflow("sqlite://").add, parse), "cannot take the function 'parse'; write @flow.batch above it"),
    (
        lambda: make(Batchflow("sqlite://").add, 3),
        "flow.add cannot take 3; write an object of a class",
    ),
]


class Items(BatchWorkflow):
    """One item."""

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([1])

    async def execute(self, item_id: str) -> None: ...


def make(what: Any, /, *args: Any, **kwargs: Any) -> Any:
    return what(*args, **kwargs)


@pytest.mark.parametrize(("call", "said"), ARGUMENTS)
def test_arguments_that_there_are_not_say_what_to_write(call: Callable[[], object], said: str) -> None:
    """Of all that a user makes, the words of other APIs included."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert said in str(caught.value)


async def test_options_of_a_batch_trigger_that_there_are_not_are_named() -> None:
    """As those of a run's are."""
    trigger: Any = Batchflow("sqlite://").add(Items()).trigger
    for options, said in (({"lable": "a"}, "did you mean 'label'?"), ({"run_id": "a"}, "write batch_id=…")):
        with pytest.raises(ConfigurationError) as caught:
            await trigger(**options)
        assert said in str(caught.value)
