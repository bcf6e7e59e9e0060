"""`batchflow batches retry`: what has failed goes on, what is missing or named runs in a linked batch."""

import pytest

from tests.cli.command_line import CommandLine


@pytest.fixture
def ended(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> str:
    """A batch of which two items have failed."""
    monkeypatch.setenv("FAIL", "user-003,user-007")
    id = command("run", command.target, "--json").document["batchId"]
    monkeypatch.delenv("FAIL")
    return id


def test_retry_resumes_what_has_failed_without_the_app(command: CommandLine, ended: str) -> None:
    """Once; a second call finds nothing, and exits with 1."""
    answer = command("batches", "retry", ended)
    assert (answer.code, answer.out) == (0, f"Resumed 2 dead letters of batch {ended}, each from its recorded steps\n")
    assert command("batches", "show", ended, "--json").document["state"] == "sealed"
    again = command("batches", "retry", ended, "--restart")
    assert (again.code, again.out) == (1, f"Nothing of batch {ended} has failed\n")


def test_retry_of_a_paused_batch_says_how_it_goes_on(command: CommandLine, ended: str) -> None:
    """Nothing of it starts before."""
    letter = command("dlq", "list", "--json").document["deadLetters"][0]
    assert command("dlq", "resume", letter["dlqId"]).code == 0
    assert command("batches", "pause", ended).code == 0
    first, second = command("batches", "retry", ended).out.splitlines()
    assert first.startswith("Resumed 1 dead letter of batch")
    assert second == f"It is paused; go on with: batchflow batches resume {ended}"


def test_retry_of_ids_starts_a_linked_batch_of_the_app(command: CommandLine, ended: str) -> None:
    """Which the batch lists."""
    answer = command("batches", "retry", ended, "--ids", "user-003,user-000", "--app", command.target)
    linked, *rest = answer.out.splitlines()
    assert linked.endswith(f" runs these items of batch {ended}")
    assert rest == ["1 item had succeeded before; --force runs such items, too"]
    id = linked.split()[1]
    twice = command("batches", "retry", ended, "--ids", "user-003,user-000", "--app", command.target, "--json").document
    assert (twice["linkedBatchId"], twice["deduplicated"], twice["skipped"]) == (id, True, 1)
    shown = command("batches", "show", ended)
    assert "Retries (1):" in shown.out
    assert f"{id}  pending" in shown.out
    assert "with retries" in shown.out
    assert command("batches", "show", id, "--json").document["retryOf"] == ended


def test_retry_reads_ids_from_an_export(command: CommandLine, ended: str) -> None:
    """As `run` does."""
    command("batches", "export", ended, "failed", "--state", "failed")
    answer = command("batches", "retry", ended, "--ids-from", "failed/manifest.json", "--app", command.target)
    assert answer.code == 0
    assert answer.out.endswith(f" runs these items of batch {ended}\n")


def test_retry_of_what_is_missing_is_one_batch(command: CommandLine, ended: str) -> None:
    """While it is under way."""
    first = command("batches", "retry", ended, "--missing", "--app", command.target)
    again = command("batches", "retry", ended, "--missing", "--app", command.target)
    assert first.out == again.out.replace("runs already", "runs")


def test_retry_refuses_what_it_cannot_do(command: CommandLine, ended: str) -> None:
    """In one sentence, and nothing is started."""
    app = ("--app", command.target)
    assert command("batches", "retry", "bat_x").is_usage_error("there is no batch 'bat_x' here")
    assert command("batches", "retry", ended, "--missing").is_usage_error("add --app MODULE:ATTR")
    assert command("batches", "retry", ended, "--force").is_usage_error("'--force' is not for failed items")
    assert command("batches", "retry", ended, "--missing", "--restart", *app).is_usage_error(
        "'--restart' is for failed"
    )
    assert command("batches", "retry", ended, "--missing", "--ids", "a", *app).is_usage_error("exclude each other")
    assert command("batches", "retry", ended, "--ids", "a", "--ids-from", "b").is_usage_error("exclude each other")
    assert command("batches", "retry", ended, "--ids", "zz", *app).is_usage_error("has started no item 'zz'")
    assert command("batches", "retry", ended, "--url", "sqlite:///x.db", *app).is_usage_error("--app and --url")
    assert command("batches", "show", ended, "--json").document["retries"] == []
