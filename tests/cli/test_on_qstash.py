"""The command for an app on QStash: runs are in its account, batches in the app's store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine
from tests.cli.on_qstash import PROGRAM, LoopThread, QStashScene
from tests.waiting import wait_until_sync

VARIABLES = ("QSTASH_URL", "QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")
ELSEWHERE = "http://127.0.0.1:9/other"
"""A function of another app with the same account."""


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """Another event loop than those of commands."""
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def scene(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QStashScene]:
    """One QStash and one app for all tests: each has orders of its own."""
    scene = QStashScene(tmp_path_factory.mktemp("qstash"))
    with pytest.MonkeyPatch.context() as environment:
        # What the scene sets is no variable of other tests.
        for name in ("BATCHFLOW_URL", "BATCHFLOW_STORE", "APP_URL", "BATCHFLOW_PUSH_ALLOW", *VARIABLES):
            environment.setenv(name, "")
            environment.delenv(name)
        environment.setenv("BATCHFLOW_PUSH_ALLOW", "loopback")
        loop.run(scene.open())
    yield scene
    loop.run(scene.close())


@pytest.fixture
def shop(command: CommandLine, scene: QStashScene, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command with the app's environment."""
    for name, value in scene.environment.items():
        monkeypatch.setenv(name, value)
    command.write(PROGRAM)
    return command


def trigger(shop: CommandLine, order: str, *options: str) -> str:
    return shop("runs", "trigger", shop.target, "/orders/ship", "-p", f"id={order}", "--json", *options).document[
        "workflowRunId"
    ]


def wait_for(shop: CommandLine, run: str, state: str) -> None:
    def has_come() -> bool:
        return shop("runs", "show", run, "--json").document["state"] == state

    wait_until_sync(has_come, description=f"the run is {state}")


def test_runs_are_triggered_and_watched_with_the_app_and_seen_without_it(shop: CommandLine) -> None:
    """They have their routes, as in the app, and the documents of other engines."""
    answer = shop("runs", "trigger", shop.target, "orders/ship", "-p", "id=a1", "--label", "first", "--wait")
    assert (answer.code, answer.out) == (0, '"A1"\n')
    (run,) = shop("runs", "list", "--label", "first", "--json").document["runs"]
    assert (run["route"], run["state"], run["label"]) == ("/orders/ship", "completed", "first")
    listed = shop("runs", "--function", "orders/ship", "--label", "first").out.splitlines()
    assert listed[1].split()[:3] == [run["workflowRunId"], "/orders/ship", "completed"]
    shown = shop("runs", "show", run["workflowRunId"]).out
    assert 'payload   {"id":"a1"}' in shown
    assert "check  run   done" in shown
    watched = shop("runs", "watch", run["workflowRunId"])
    assert (watched.code, "completed after" in watched.out) == (0, True)
    missing = shop("runs", "show", "run_x")
    assert (missing.code, missing.err) == (2, "error: there is no run 'run_x' here; 'batchflow runs' lists them\n")


def test_runs_are_cancelled_and_notified(shop: CommandLine) -> None:
    """By id, or by the route of their function."""
    held, other = trigger(shop, "held1", "--label", "held"), trigger(shop, "held2", "--label", "held")

    def wait() -> bool:
        return all("No run" not in shop("waiters", f"release:held{it}").out for it in (1, 2))

    wait_until_sync(wait, description="both wait")
    row = shop("waiters", "release:held1").out.splitlines()[1]
    assert (row.split()[0], "1970" in row) == (held, False)
    assert shop("notify", "release:held1", '"now"').out == f"Notified {held}\n"
    wait_for(shop, held, "completed")
    assert shop("runs", "cancel", held).out == f"Run {held} had ended before: it is completed\n"
    assert shop("runs", "cancel", "--function", "/orders/ship").out == "Cancelled 1 run\n"
    wait_for(shop, other, "cancelled")


def test_other_apps_of_the_account_have_urls_and_keep_their_dead_letters(
    shop: CommandLine, scene: QStashScene, loop: LoopThread
) -> None:
    """A filter may name them; all dead letters are those of the app."""
    other = loop.run(scene.start_elsewhere(ELSEWHERE)).removeprefix("wfr_")
    wait_for(shop, other, "failed")
    (run,) = shop("runs", "list", "--function", ELSEWHERE, "--json").document["runs"]
    assert (run["workflowRunId"], run["route"]) == (other, ELSEWHERE)

    def listed(*options: str) -> list[str]:
        return [it["dlqId"] for it in shop("dlq", "list", "--json", *options).document["deadLetters"]]

    assert other not in listed()
    assert listed("--endpoint", ELSEWHERE) == [other]
    assert shop("dlq", "delete", "--endpoint", ELSEWHERE, "--yes").out == "Deleted 1 dead letter\n"


def test_dead_letters_of_runs_and_of_items_go_on_at_once(shop: CommandLine, scene: QStashScene) -> None:
    """A run goes on as a new one, and nobody waits for the next request of the schedule."""
    run = trigger(shop, "lost1")
    wait_for(shop, run, "failed")
    ended = shop("run", shop.target, "welcome", "--ids", "b1,lost2", "--json")
    batch = ended.document["batchId"]
    assert (ended.code, ended.document["counts"]["failed"]) == (1, 1)
    letters = {it["dlqId"]: it for it in shop("dlq", "list", "--json").document["deadLetters"]}
    item = next(id for id in letters if id.startswith(batch))
    assert {run, item} <= letters.keys()
    assert "order 'lost1' is nowhere" in shop("dlq", "show", run).out
    assert "lost2 (number 1)" in shop("dlq", "show", item).out
    assert "order 'lost2' is nowhere" in shop("dlq", "groups", "--batch", batch).out
    Path("found").touch()
    resumed = shop("dlq", "resume", run)
    assert (resumed.code, resumed.out.splitlines()[0]) == (0, "Resumed 1 dead letter")
    wait_for(shop, resumed.out.split()[-1], "completed")
    assert shop("dlq", "resume", "--batch", batch).code == 0

    def is_done() -> bool:
        return shop("batches", "show", batch, "--json").document["counts"]["succeeded"] == 2

    wait_until_sync(is_done, description="the item that failed has succeeded")


def test_batches_of_the_store_are_seen_and_go_on_at_once(
    shop: CommandLine, scene: QStashScene, loop: LoopThread
) -> None:
    """The command has QStash call the app, which gives it what is due."""
    batch = loop.run(scene.start_batch(["d1", "d2", "d3"], canary=1))

    def waits() -> bool:
        return "waits for approval" in shop("batches", "list", "--open").out

    wait_until_sync(waits, description="its canary has ended")
    assert "no live worker" not in shop("batches", "why", batch).out + shop("top", "--once").out
    assert shop("batches", "pause", batch).code == 0
    assert shop("batches", "approve", batch).code == 0
    assert shop("batches", "resume", batch).out == f"Batch {batch} goes on\n"

    def has_ended() -> bool:
        return shop("batches", "show", batch, "--json").document["state"] == "completed"

    wait_until_sync(has_ended, description="the others have ended")
    assert shop("batches", "export", batch).out.count("succeeded") == 3
    assert shop("items", "welcome", "d2").code == 0
    assert shop("ledger", "list").out == "welcome\n"
    assert shop("runs", "show", f"{batch}.e", "--json").document["route"] == "/welcome/process-items"


def test_flow_keys_are_those_of_the_account(shop: CommandLine) -> None:
    """They are pinned and paused until that is undone."""
    wait_for(shop, trigger(shop, "c1"), "completed")
    assert shop("flow", "pin", "orders.ship", "--parallelism", "2").code == 0
    (key,) = [it for it in shop("flow", "--json").document["keys"] if it["key"] == "orders.ship"]
    assert (key["parallelism"], key["paused"]) == (2, False)
    refused = shop("flow", "pause", "orders.ship", "--for", "10m")
    assert refused.is_usage_error("'--for' is not supported on QStash; leave it out, and undo it by hand")
    assert "paused" in shop("flow", "pause", "orders.ship").out
    held = trigger(shop, "c2")
    assert shop("runs", "show", held, "--json").document["state"] == "waiting"
    assert shop("flow", "reset", "orders.ship").code == 0
    wait_for(shop, held, "completed")


def test_schedules_of_functions_are_in_the_account_and_those_of_batches_in_the_store(shop: CommandLine) -> None:
    """They are made and fired with the app, and seen without it."""
    target = shop.target
    of_function = shop("schedules", "create", target, "/orders/ship", "0 3 * * *", "--id", "ship", "-p", "id=e1")
    of_batch = shop("schedules", "create", target, "welcome", "0 4 * * *", "--id", "nightly")
    assert (of_function.code, of_batch.code) == (0, 0)
    stored, listed = shop("schedules", "list", "--json").document["schedules"]
    assert (stored["scheduleId"], stored["isServed"]) == ("nightly", True)
    assert (listed["scheduleId"], listed["destination"], listed["isServed"]) == ("ship", "/orders/ship", True)
    assert "no worker serves it" not in shop("schedules").out
    assert shop("schedules", "pause", "ship").out == "Schedule ship is paused\n"
    assert shop("schedules", "resume", "ship").code == 0
    fired = shop("schedules", "trigger", target, "ship", "--json").document["startedId"]
    wait_for(shop, fired, "completed")
    batch = shop("schedules", "trigger", target, "nightly", "--json").document["startedId"]

    def has_ended() -> bool:
        return shop("batches", "show", batch, "--json").document["state"] == "completed"

    wait_until_sync(has_ended, description="the batch has ended")
    for id in ("ship", "nightly"):
        assert shop("schedules", "delete", id, "--yes").code == 0
    assert shop("schedules").out == "No schedules\n"


def test_without_the_url_of_the_app_functions_are_named_by_their_urls(
    shop: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route stands for all functions whose URLs end with it; what would change all of them is refused."""
    run = trigger(shop, "lost5")
    wait_for(shop, run, "failed")
    url = f"{shop.environment({})['APP_URL']}orders/ship"
    monkeypatch.delenv("APP_URL")
    (listed,) = shop("runs", "list", "--function", "ship", "--limit", "1", "--json").document["runs"]
    assert (listed["workflowRunId"], listed["route"]) == (run, url)
    assert shop("runs", "list", "--function", "/nope").out == "No runs\n"
    for options in (("--workflow", "/orders/ship"), ("--endpoint", url)):
        assert run in shop("dlq", "list", *options).out
    assert shop("runs", "cancel", "--function", "/orders/ship").is_usage_error("set APP_URL")


def test_a_worker_and_a_server_are_refused(shop: CommandLine) -> None:
    """QStash calls the app, and is another program."""
    sentence = f"QStash calls '{shop.target}': serve its router, as with uvicorn, and start no worker"
    for options in ((), ("--processes", "2")):
        assert shop("worker", shop.target, *options).is_usage_error(sentence)
    for arguments in (("server", "--port", "0"), ("tokens",), ("keys", "show")):
        answer = shop(*arguments)
        assert answer.is_usage_error("BATCHFLOW_URL is qstash://, as for its apps; name the store of the server with")


STORED = [
    ("batches",),
    ("batches", "show", "bat_1"),
    ("items", "welcome", "a"),
    ("top", "--once"),
    ("workers",),
    ("ledger", "list"),
    ("ledger", "export"),
]
"""Commands about what an app on QStash keeps in its store."""
IN_ACCOUNT = [
    ("runs",),
    ("runs", "show", "run_1"),
    ("dlq",),
    ("flow",),
    ("schedules",),
    ("waiters", "e"),
    ("notify", "e"),
]
"""Commands about what is in its account."""


def test_a_store_that_is_not_named_or_not_there_is_one_sentence(
    shop: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the account can be seen without one."""
    monkeypatch.setenv("BATCHFLOW_STORE", "sqlite:///nope.db")
    for arguments in STORED:
        assert shop(*arguments).is_usage_error("no database 'nope.db' here; go to its folder, or name it with --url or")
    monkeypatch.delenv("BATCHFLOW_STORE")
    for arguments in STORED:
        assert shop(*arguments).is_usage_error("keeps its batches and its ledger in a store; set BATCHFLOW_STORE")
    for arguments in (("runs",), ("dlq",), ("flow",), ("schedules",)):
        assert shop(*arguments).code == 0


def test_an_account_that_cannot_be_used_is_one_sentence(shop: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token is never shown; what is in the store can be seen without QStash."""

    def fails(code: int, sentence: str) -> None:
        for arguments in IN_ACCOUNT:
            answer = shop(*arguments)
            assert (answer.code, answer.out, answer.err.count("\n")) == (code, "", 1)
            assert answer.err.startswith(f"error: {sentence}")

    monkeypatch.setenv("QSTASH_TOKEN", "geheim")
    url = shop.environment({})["QSTASH_URL"]
    fails(1, f"QStash at {url} does not accept the token; check QSTASH_TOKEN")
    monkeypatch.delenv("QSTASH_CURRENT_SIGNING_KEY")
    monkeypatch.setenv("QSTASH_URL", "http://127.0.0.1:9")
    fails(1, "QStash at http://127.0.0.1:9 does not answer (")
    assert shop("batches").code == 0
    monkeypatch.delenv("QSTASH_TOKEN")
    fails(2, "the token of QStash is missing; write QSTASH_TOKEN=… into the environment")
