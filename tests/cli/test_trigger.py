"""`batchflow runs trigger`: a run of a function, from the command line to its result."""

import io
from typing import Any

import pytest

from tests.cli.command_line import CommandLine
from tests.cli.functions import FUNCTIONS, trigger_run

PACKED: dict[str, Any] = {"parcel": "A7", "items": 1, "tags": []}


def test_trigger_starts_a_run_and_says_how_to_look(shop: CommandLine) -> None:
    """It is left to a worker."""
    answer = shop("runs", "trigger", shop.target, "orders/ship", "--payload", '{"id": "a7"}', "--label", "urgent")
    assert (answer.code, answer.err) == (0, "")
    said, look = answer.out.splitlines()
    id = said.split()[1]
    assert (said, look) == (f"Run {id} of /orders/ship", f"  look: batchflow runs show {id}")
    run = shop("runs", "show", id, "--json").document
    assert (run["state"], run["label"], run["payload"]) == (
        "waiting",
        "urgent",
        {"id": "a7", "item_count": 1, "tags": []},
    )


def test_trigger_waits_and_prints_the_result(shop: CommandLine) -> None:
    """This process does the work; stdout has nothing but the result."""
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=a7", "--wait", "--run-id", "order-7")
    assert (answer.code, answer.err) == (0, "Run order-7 of /orders/ship\n")
    assert answer.document == PACKED
    again = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=other", "--wait", "--run-id", "order-7")
    assert again.document == PACKED


def test_trigger_says_how_a_run_failed(shop: CommandLine) -> None:
    """Exit code 1, and its sentence; or all about it as one document."""
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=lost", "--wait", "--run-id", "order-8")
    assert (answer.code, answer.out) == (1, "")
    message = "error: run 'order-8' of '/orders/ship' failed: NonRetryable: order 'lost' is nowhere"
    assert answer.err.splitlines()[-1] == message
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=lost", "--wait", "--json")
    assert (answer.code, answer.document["state"], answer.document["result"]) == (1, "failed", None)
    assert answer.document["error"].startswith("NonRetryable: order 'lost' is nowhere (")
    assert answer.document["traceback"].startswith("Traceback")


def test_trigger_takes_a_dedup_id_and_a_delay(shop: CommandLine) -> None:
    """A known id starts nothing; a number without a unit is in seconds."""
    first = trigger_run(shop, "a7", "--dedup-id", "order 7", "--delay", "3600")
    assert trigger_run(shop, "a8", "--dedup-id", "order 7", "--delay", "1h") == first
    assert len(shop("runs", "--json").document["runs"]) == 1
    again = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=a9", "--dedup-id", "order 7")
    assert again.out.splitlines()[0] == f"Run {first} of /orders/ship, which was there already"


def test_trigger_takes_an_open_dedup_id_a_time_and_headers(shop: CommandLine) -> None:
    """A dedup id may hold until the run has ended; headers are the run's."""
    options = ("--dedup-id", "x", "--dedup", "open", "--not-before", "2090-01-01T00:00:00Z", "-H", "trace=7=8")
    first = trigger_run(shop, "a7", *options)
    assert trigger_run(shop, "a7", *options) == first
    assert shop("runs", "cancel", first).code == 0
    assert trigger_run(shop, "a7", *options) != first


@pytest.mark.parametrize(
    ("arguments", "items", "tags"),
    [
        (("-p", "itemCount=3", "-p", 'tags=["a", "b"]'), 3, ["a", "b"]),
        (("-p", "item_count=3", "--payload", '{"id": "x", "tags": ["c"]}'), 3, ["c"]),
        (("-p", "item_count=3", "--payload", '{"itemCount": 9}'), 3, []),
        (("-p", "itemCount=3", "--payload", '{"item_count": 9, "other": 1}'), 3, []),
    ],
)
def test_fields_are_given_one_by_one(
    shop: CommandLine, arguments: tuple[str, ...], items: int, tags: list[str]
) -> None:
    """As text, or as JSON where the text does not fit; they win over the payload."""
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=a7", *arguments, "--wait")
    assert answer.document == {"parcel": "A7", "items": items, "tags": tags}


def test_the_payload_may_come_from_elsewhere(shop: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or stdin; text that is not JSON goes to the parser."""
    (shop.folder / "order.json").write_text('{"id": "a7"}')
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "--payload", "@order.json", "--wait")
    assert answer.document == PACKED
    monkeypatch.setattr("sys.stdin", io.StringIO("three small words"))
    assert shop("runs", "trigger", shop.target, "/count", "--payload", "-", "--wait").document == 3


WRONG = {
    (): "'{target}' serves 2 functions; name one of '/count', '/orders/ship'",
    ("/order",): "'{target}' serves nothing at '/order'; did you mean '/orders/ship'?",
    ("/orders/ship",): "'id' does not fit: Field required",
    ("/orders/ship", "-p", "id=a", "-p", "itemCount=few"): "'itemCount' does not fit",
    ("/orders/ship", "-p", "id"): "write -p name=value",
    ("/orders/ship", "-p", "id=a", "-p", "id=b"): "a list as JSON: -p id='[…]'",
    ("/orders/ship", "-p", "id=a", "-p", "itemCount=1", "-p", "item_count=2"): "'item_count' is given twice",
    ("/orders/ship", "-p", "id=a", "-p", "itemCuont=1"): "did you mean 'itemCount'?",
    ("/orders/ship", "-p", "id=a", "-p", "x=1"): "known are 'id', 'itemCount', 'tags'",
    ("/orders/ship", "-p", "id=a", "-p", "label=b"): "but an option: --label",
    ("/orders/ship", "--payload", "id=a"): "--payload is not JSON",
    ("/orders/ship", "-p", "id=a", "--payload", "[1]"): "--payload must be a JSON object",
    ("/orders/ship", "--payload", "@nowhere.json"): "No such file or directory",
    ("/count", "--payload", "none"): "the parser 'lines' of 'count' cannot read this: ValueError: there are no lines",
    ("/count", "--payload", "[]", "--run-id", "a b"): "'--run-id' cannot be 'a b'",
    ("/count", "--payload", "[]", "--delay", "soon"): "'--delay' cannot be 'soon'",
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=map(" ".join, WRONG))
def test_a_trigger_that_does_not_fit(shop: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    """One sentence, exit code 2; nothing is started."""
    answer = shop("runs", "trigger", shop.target, *arguments)
    assert answer.is_usage_error(message.format(target=shop.target))
    assert answer.out == ""


def test_a_payload_that_is_no_text(shop: CommandLine) -> None:
    """The error names the file."""
    (shop.folder / "image").write_bytes(b"\xff\xd8")
    answer = shop("runs", "trigger", shop.target, "/count", "--payload", "@image")
    assert answer.is_usage_error("--payload cannot be read from 'image'")


def test_a_run_that_would_be_lost_is_not_started(shop: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory ends with the command; with --wait that is fine."""
    monkeypatch.setenv("BATCHFLOW_URL", "sqlite://")
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=a7")
    assert answer.is_usage_error("add --wait, or set BATCHFLOW_URL to a file")
    assert answer.out == ""
    assert shop("runs", "trigger", shop.target, "/orders/ship", "-p", "id=a7", "--wait").document == PACKED


def test_an_app_without_functions(command: CommandLine) -> None:
    """Nothing can be triggered."""
    answer = command("runs", "trigger", command.target)
    assert answer.is_usage_error("add one with @flow.serve(…)")


def test_trigger_cannot_address_a_failure_function(command: CommandLine) -> None:
    """It is not among the functions, by whatever name."""
    command.write(FUNCTIONS + FAILING)
    for name in ("batchflow:failure/closed", "/batchflow:failure/closed", "closed/failure", "batchflow:failure-url"):
        answer = command("runs", "trigger", command.target, name, "--payload", '"run_1"')
        assert answer.is_usage_error("serves nothing at")
    assert "run_1" not in command("runs").out


FAILING = """

async def failed(failure):
    print("told")


@flow.serve("/closed", failure_function=failed)
async def closed(ctx: WorkflowContext[str]) -> None: ...
"""
