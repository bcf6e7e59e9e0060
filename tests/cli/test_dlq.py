"""`batchflow dlq`: search, groups, resume, restart, delete."""

import re

import pytest

from tests.cli.command_line import CommandLine, column_titles

FAILED = "user-003,user-007"


@pytest.fixture
def failed(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command beside a batch of which two items are dead letters."""
    monkeypatch.setenv("FAIL", FAILED)
    assert command("run", command.target, "--json").code == 1
    return command


def ids(command: CommandLine) -> list[str]:
    """The ids of the dead letters, the latest first."""
    return [letter["dlqId"] for letter in command("dlq", "--json").document["deadLetters"]]


def test_list_has_each_dead_letter_with_its_error(failed: CommandLine) -> None:
    """The latest first; `list` may be written or not, and a page leads to the next."""
    lines = failed("dlq").out.splitlines()
    assert column_titles(lines[0]) == ["died", "status", "attempts", "group", "dead", "letter", "of"]
    assert len(lines) == 5
    assert {line.split()[-1] for line in lines[1::2]} == set(FAILED.split(","))
    assert lines[2].strip().startswith("NonRetryable: no greeting for user-00")
    more = failed("dlq", "list", "--limit", "1").out.splitlines()[-1]
    assert more.startswith("more: --cursor ")
    rest = failed("dlq", "list", "--cursor", more.split()[-1]).out.splitlines()
    assert rest[1:] == lines[3:]


def test_list_can_be_narrowed(failed: CommandLine) -> None:
    """By all parts of a filter."""
    letter = failed("dlq", "--json", "--item", "user-003").document["deadLetters"][0]
    batch, group = letter["batchId"], letter["group"]
    for options, count in (
        (("--workflow", "greet", "--batch", batch, "--group", group, "--status", "489"), 2),
        (("--endpoint", "/greet/execute-user"), 2),
        (("--run", letter["dlqId"]), 1),
        (("--label", "x"), 0),
        (("--until", "2001-01-01"), 0),
        (("--since", "2001-01-01T00:00:00Z"), 2),
    ):
        assert len(failed("dlq", "--json", *options).document["deadLetters"]) == count, options
    assert failed("dlq", "--label", "x").out == "No dead letters\n"


def test_groups_lead_to_resume(failed: CommandLine) -> None:
    """Each with its size, its place in the code and its latest error."""
    header, row, error, hint = failed("dlq", "groups").out.splitlines()
    assert column_titles(header) == ["count", "group", "first", "last", "where"]
    assert row.split()[0] == "2"
    assert re.search(r"jobs_\d+\.py:\d+ in execute$", row)
    assert error.strip().startswith("NonRetryable: no greeting for user-00")
    group = failed("dlq", "groups", "--json").document["groups"][0]["group"]
    assert hint == f"again: batchflow dlq resume --group {group} --canary 5"


def test_show_is_the_whole_dead_letter(failed: CommandLine) -> None:
    """Request, error, attempts, steps."""
    id = ids(failed)[0]
    out = failed("dlq", "show", id).out
    parts = [f"dead letter  {id}", "status       489", "Error:", "Latest attempts:", "Steps:", "process-item (execute)"]
    for part in parts:
        assert part in out, part
    document = failed("dlq", "show", id, "--json").document
    assert (document["dlqId"], len(document["attemptLog"]), document["failure"]) == (id, 1, None)
    assert failed("dlq", "show", "nope").is_usage_error("no dead letter 'nope'")


def test_resume_lets_a_worker_go_on(failed: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch goes on; what is no dead letter any more is refused, with exit code 1."""
    first, second = ids(failed)
    answer = failed("dlq", "resume", first, "nope")
    assert (answer.code, answer.out.splitlines()[0]) == (0, "Resumed 1 dead letter")
    assert answer.out.splitlines()[1].startswith("refused: nope (")
    assert failed("dlq", "restart", "--workflow", "greet", "--retries", "2").out == "Restarted 1 dead letter\n"
    again = failed("dlq", "resume", first, second, "--json")
    assert (again.code, again.document["count"], again.document["refused"]) == (1, 0, [first, second])
    (batch,) = failed("batches", "--json").document["batches"]
    assert (batch["state"], batch["counts"]["open"]) == ("sealed", 2)


def test_callback_is_refused_without_a_failure_function(failed: CommandLine) -> None:
    """Nothing is called."""
    answer = failed("dlq", "callback", "--all")
    assert answer.code == 1
    assert "without a failure function" in answer.out


def test_delete_asks_first(failed: CommandLine) -> None:
    """Without a terminal it needs --yes."""
    assert failed("dlq", "delete", "--all").is_usage_error("add --yes")
    assert len(ids(failed)) == 2
    assert failed("dlq", "delete", "--all", "--yes").out == "Deleted 2 dead letters\n"
    assert failed("dlq", "delete", "--all", "--yes").code == 1
    assert ids(failed) == []


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("resume",), "say which dead letters"),
        (("resume", "a", "--label", "x"), "not both"),
        (("resume", "--all", "--parallelism", "1"), "give --flow-key KEY too"),
        (("resume", "--all", "--flow-key", "a b"), "'--flow-key' cannot be"),
        (("resume", "--status", "7"), "'--status' cannot be"),
        (("list", "--since", "yesterday"), "'--since' cannot be"),
        (("list", "--cursor", "x"), "'--cursor' cannot be"),
        (("retry", "--all"), "did you mean: batchflow dlq resume"),
    ],
)
def test_what_is_not_valid_is_refused(failed: CommandLine, arguments: tuple[str, ...], phrase: str) -> None:
    """Exit code 2 and one sentence; nothing is redriven."""
    answer = failed("dlq", *arguments)
    assert answer.is_usage_error(phrase), answer.err
    assert len(ids(failed)) == 2
