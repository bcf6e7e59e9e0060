"""`batchflow notify` and `batchflow waiters`, on the store alone."""

from tests.cli.command_line import CommandLine, column_titles
from tests.cli.functions import trigger_run, work_until


def test_an_event_reaches_the_run_that_waits(shop: CommandLine) -> None:
    """A waiting run is listed, notified, and continues with the data."""
    id = trigger_run(shop, "held")
    work_until("waiting", id)
    header, line = shop("waiters", "release:held/1").out.splitlines()
    assert column_titles(header) == ["run", "step", "since", "until"]
    assert line.split()[:2] == [id, "release"]
    (waiter,) = shop("waiters", "release:held/1", "--json").document["waiters"]
    assert (waiter["workflowRunId"], waiter["step"], waiter["until"]) == (id, "release", None)
    answer = shop("notify", "release:held/1", '{"by": "Ada"}')
    assert (answer.code, answer.out) == (0, f"Notified {id}\n")
    assert work_until("completed", id).result == '{"released":{"by":"Ada"}}'


def test_an_event_is_kept_for_one_run(shop: CommandLine) -> None:
    """Before it waits for it; a file may hold the data."""
    id = trigger_run(shop, "held")
    (shop.folder / "data.json").write_text("[1, 2]")
    document = shop("notify", "release:held/1", "@data.json", "--run", id, "--json").document
    assert document == {"success": True, "eventId": "release:held/1", "runIds": [id]}
    assert work_until("completed", id).result == '{"released":[1,2]}'


def test_an_event_that_nobody_gets(shop: CommandLine) -> None:
    """The exit code is 1; it is 2 for wrong usage."""
    trigger_run(shop, "a7")
    answer = shop("notify", "nothing")
    assert (answer.code, answer.out) == (1, "No run waits for 'nothing'\n")
    answer = shop("notify", "nothing", "--run", "run_x")
    assert (answer.code, "Run run_x cannot receive it" in answer.out) == (1, True)
    assert shop("waiters", "nothing").out == "No run waits for 'nothing'\n"
    answer = shop("notify", "nothing", "hello")
    assert answer.is_usage_error("DATA is not JSON")
    answer = shop("notify", "batchflow:webhook:x")
    assert answer.is_usage_error("the event id begins with 'batchflow:'")
