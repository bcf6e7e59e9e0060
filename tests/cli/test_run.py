"""`batchflow run`: counting, running, what is said and with which exit code the command ends."""

import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from batchflow.batch.dry_run import Statistics
from tests.cli.command_line import JOBS, CommandLine, CommandResult

STATISTICS = """\
eligible            12
already processed   0
duplicates          0
to process          12
pages               2
chunks              3
sample              user-000, user-001, user-002, user-003, user-004
predicted duration  0s
binding limit       none
mean time           none measured yet
[DryRun] Would process 12 users
"""

COUNTS = {
    "eligible": 12,
    "open": 0,
    "succeeded": 12,
    "failed": 0,
    "cancelled": 0,
    "alreadyProcessed": 0,
    "inFlight": 0,
    "duplicates": 0,
    "leftOut": 0,
    "retrying": 0,
    "parked": 0,
}


def result_lines(answer: CommandResult) -> list[str]:
    """The lines on stdout below the one of the store, with ids and times made equal."""
    assert answer.out.startswith("greet at ")
    text = re.sub(r"bat_[0-9a-z]+", "bat_x", answer.out)
    return re.sub(r"took   .*", "took   1s", text).splitlines()[1:]


def test_run_names_its_store(command: CommandLine) -> None:
    """The first line has the absolute path of the file, and says if the command has made it."""
    place = command.folder / "batchflow.db"
    assert command("run", command.target, "--dry-run").out.splitlines()[0] == f"greet at {place} (new)"
    assert command("run", command.target).out.splitlines()[0] == f"greet at {place}"


def test_run_says_that_its_state_is_in_memory(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no file, so none is new."""
    monkeypatch.setenv("BATCHFLOW_URL", "sqlite://")
    assert command("run", command.target).out.splitlines()[0] == "greet at memory"


def test_dry_run_prints_all_statistics(command: CommandLine) -> None:
    """A dry run shows every number, and runs nothing."""
    answer = command("run", command.target, "greet", "--dry-run")
    assert (answer.code, answer.err, command.done()) == (0, "", [])
    # How long a page took is measured: with as few as these it is next to nothing.
    assert re.sub(r"(duration) +\w+", r"\1  0s", answer.out.partition("\n")[2]) == STATISTICS


def test_dry_run_is_one_json_document(command: CommandLine) -> None:
    """`--json` is what the HTTP endpoint answers, parameters taken into account."""
    answer = command("run", command.target, "--dry-run", "-p", "paidOnly=true", "--json")
    found = Statistics.model_validate(answer.document)
    assert (answer.code, found.total_eligible, found.to_process, found.pages) == (0, 6, 6, 1)
    assert answer.document["message"] == "[DryRun] Would process 6 users"


def test_run_ends_with_a_summary(command: CommandLine) -> None:
    """The batch is run to its end; every item once."""
    answer = command("run", command.target, "greet", "--label", "first")
    assert answer.code == 0
    assert result_lines(answer) == [
        "Batch bat_x of greet",
        "Processed 12 users",
        "batch  bat_x of greet (first)",
        "state  completed",
        "items  12 succeeded",
        "took   1s",
    ]
    assert sorted(command.done()) == [f"user-{n:03}" for n in range(12)]


def test_log_lines_go_to_stderr(command: CommandLine) -> None:
    """Without a bar the lines of batches are written, apart from what was asked for, and none of pages."""
    answer = command("run", command.target)
    assert "[greet:process] Starting with payload" in answer.err
    assert "[greet:paginate]" not in answer.err


def test_run_again_says_that_all_is_done(command: CommandLine) -> None:
    """Items in the ledger are skipped."""
    command("run", command.target)
    answer = command("run", command.target)
    assert answer.code == 0
    assert result_lines(answer)[1:5] == [
        "All items already processed",
        "batch  bat_x of greet",
        "state  completed",
        "items  12 already processed",
    ]
    assert len(command.done()) == 12


def test_force_runs_what_is_done(command: CommandLine) -> None:
    """`--force` passes the ledger by."""
    command("run", command.target)
    assert command("run", command.target, "--force").code == 0
    assert len(command.done()) == 24


def test_run_without_items_says_so(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch without items succeeds."""
    monkeypatch.setenv("COUNT", "0")
    answer = command("run", command.target)
    assert (answer.code, result_lines(answer)[1]) == (0, "No eligible items found")


def test_run_takes_an_id_of_ones_own(command: CommandLine) -> None:
    """A known batch is resumed, not started again."""
    first = command("run", command.target, "--batch-id", "bat_first", "--json").document
    again = command("run", command.target, "--batch-id", "bat_first", "--json", "--force").document
    assert (first["batchId"], first["deduplicated"]) == (again["batchId"], False) == ("bat_first", False)
    assert (again["deduplicated"], again["counts"]["succeeded"], len(command.done())) == (True, 12, 12)
    said = command("run", command.target, "--batch-id", "bat_first").out.splitlines()[1]
    assert said == "Batch bat_first of greet, which was there already"


def test_run_takes_a_dedup_id_a_delay_and_headers(command: CommandLine) -> None:
    """It waits for the delay, which a bare number gives in seconds."""
    options = ("--dedup-id", "today", "--delay", "0", "-H", "trace=7", "--json")
    first = command("run", command.target, *options).document
    again = command("run", command.target, *options).document
    assert (again["batchId"], again["deduplicated"]) == (first["batchId"], True)
    other = command("run", command.target, *options, "--dedup", "open").document
    assert (other["batchId"] != first["batchId"], other["deduplicated"]) == (True, False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--not-before", "soon"), "'--not-before' cannot be 'soon'"),
        (("-H", "secret"), "--header NAME=VALUE"),
        (("-H", "a=1", "-H", "a=2"), "the header 'a' is given twice"),
        (("--dedup", "ever", "--dedup-id", "x"), "'--dedup' cannot be 'ever'"),
        (("-p", "delay=1s"), "but an option: --delay"),
    ],
)
def test_run_refuses_an_option_that_is_none(command: CommandLine, options: tuple[str, ...], sentence: str) -> None:
    """One sentence, exit code 2, and nothing is started."""
    answer = command("run", command.target, *options)
    assert answer.is_usage_error(sentence)
    assert command.done() == []


def test_run_is_one_json_document(command: CommandLine) -> None:
    """`--json` writes the summary and nothing else, to either stream."""
    answer = command("run", command.target, "--json", "--label", "first")
    document = answer.document
    assert (answer.code, answer.err) == (0, "")
    assert document.pop("batchId").startswith("bat_")
    assert document.pop("durationMs") > 0
    assert document == {
        "workflow": "greet",
        "state": "completed",
        "success": True,
        "message": "Processed 12 users",
        "resumed": False,
        "deduplicated": False,
        "counts": COUNTS,
        "pages": 2,
        "chunks": 3,
        "label": "first",
        "error": None,
        "completionError": None,
        "lastErrors": [],
        "counted": None,
    }


def test_failed_items_are_shown(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, the first failures with their errors, and where the others are."""
    monkeypatch.setenv("FAIL", ",".join(f"user-{n:03}" for n in range(7)))
    answer = command("run", command.target)
    assert answer.code == 1
    lines = result_lines(answer)
    assert lines[1:4] == ["Processed 5 users, 7 failed", "batch  bat_x of greet", "state  completed"]
    assert lines[4] == "items  5 succeeded, 7 failed"
    assert lines[6] == "Failed:"
    assert re.fullmatch(r"  7 items failed.* NonRetryable: no greeting .*\.py:\d+ in execute\)", lines[7])
    assert lines[8] == "  user-000, user-001, user-002, user-003, user-004 and 2 more"
    assert lines[9] == "  why: batchflow batches show bat_x"


ON_COMPLETE = """
    def on_complete(self, summary):
        raise NonRetryable("nobody to tell")


flow = Batchflow()"""


def test_on_complete_that_failed_is_told(command: CommandLine) -> None:
    """All items have succeeded, but those downstream were not told: exit code 1, and one sentence why."""
    command.write(JOBS.replace("\nflow = Batchflow()", ON_COMPLETE))
    answer = command("run", command.target)
    lines = result_lines(answer)
    assert (answer.code, lines[1]) == (1, "Processed 12 users, but on_complete failed")
    assert any(re.match(r"on_complete +failed: .*NonRetryable: nobody to tell", line) for line in lines)
    document = command("run", command.target, "--force", "--json")
    assert (document.code, "nobody to tell" in document.document["completionError"]) == (1, True)
    assert "on_complete failed" in command("batches").out


def test_run_waits_for_the_failure_functions_of_its_items(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for their retries: perhaps no other process would make them."""
    monkeypatch.setenv("FAIL", "user-003")
    hook = """
    async def on_item_failure(self, failure):
        with (HERE / "told.txt").open("a") as told:
            told.write(f"{failure.item_id}: {failure.response}\\n")
        if (HERE / "told.txt").read_text().count("\\n") == 1:
            raise RetryAfter(0.3)


flow = Batchflow()
"""
    jobs = JOBS.replace("import Batchflow,", "import RetryAfter, Batchflow,").replace("\n\nflow = Batchflow()\n", hook)
    (command.folder / "failing_jobs.py").write_text(jobs)
    assert command("run", "failing_jobs:flow", "greet").code == 1
    assert (command.folder / "told.txt").read_text() == "user-003: no greeting for user-003\n" * 2


def test_failed_walk_is_told(command: CommandLine) -> None:
    """A source that fails for good fails the batch: exit code 1, and why."""
    answer = command("run", command.target, "-p", "days=0")
    assert (answer.code, result_lines(answer)[1]) == (1, "The batch failed")
    assert "no days, no users" in answer.out


def test_limit_leaves_the_rest_for_the_next(command: CommandLine) -> None:
    """The small batch before the full one."""
    assert command("run", command.target, "--limit", "5", "--json").document["counts"]["succeeded"] == 5
    assert command("run", command.target, "--json").document["counts"]["succeeded"] == 7


def test_ids_are_run_whatever_was_done(command: CommandLine) -> None:
    """Exactly these, and no others."""
    command("run", command.target, "--limit", "2")
    answer = command("run", command.target, "--ids", "user-001, user-500")
    assert answer.code == 0
    assert command.done()[2:] == ["user-001", "user-500"]


def test_parameters_come_from_both_places(command: CommandLine) -> None:
    """Pairs win over the JSON object; both take either spelling."""
    answer = command(
        "run", command.target, "--json", "--params", '{"paid_only": false, "days": 3}', "-p", "paidOnly=true"
    )
    assert answer.document["counts"]["succeeded"] == 6


def test_values_that_are_no_text_are_read_as_json(command: CommandLine) -> None:
    """A list is given as JSON."""
    answer = command("run", command.target, "--dry-run", "--json", "-p", 'tags=["a","b"]', "-p", "days=2")
    assert answer.code == 0


def test_the_only_workflow_need_not_be_named(command: CommandLine) -> None:
    """One is enough to know which."""
    assert "greet" in command("run", command.target, "--dry-run").out


@pytest.fixture
def own_logs() -> Iterator[None]:
    """structlog as it was, whatever an app does to it."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("own_logs")
def test_a_users_own_log_configuration_is_left_alone(command: CommandLine) -> None:
    """A structlog configuration of the app is kept."""
    text = (command.folder / f"{command.name}.py").read_text()
    own = "from structlog import configure, testing\nLINES = testing.CapturingLoggerFactory()\n"
    command.write(f"{own}configure(logger_factory=LINES)\n{text}")
    answer = command("run", command.target)
    assert (answer.code, answer.err) == (0, "")
    assert sys.modules[command.name].LINES.logger.calls


def test_a_dry_run_shows_the_lines_of_the_users_code_that_failed(command: CommandLine) -> None:
    """One sentence and the user's own frames, and nothing of batchflow's inside."""
    command.write(JOBS.replace('raise NonRetryable("no days, no users")', "return find_users(params.days)"))
    with (command.folder / f"{command.name}.py").open("a") as module:
        module.write("\n\ndef find_users(days):\n    return 1 / days\n")
    answer = command("run", command.target, "--dry-run", "-p", "days=0")
    assert answer.code == 1
    assert answer.err.startswith("error: the dry run failed: ZeroDivisionError: division by zero\n")
    assert [line.split(", in ")[1] for line in answer.err.splitlines() if ", in " in line] == ["fetch", "find_users"]
    assert "batchflow/" not in answer.err


def test_run_says_that_the_ledger_does_not_distinguish_parameters(command: CommandLine) -> None:
    """Where parameters are given and nothing is left to do."""
    said = "The ledger does not distinguish parameters: name those that make other work\n  in processed_per"
    assert said not in command("run", command.target, "-p", "days=2").out
    assert said in command("run", command.target, "-p", "days=3").out
    assert said not in command("run", command.target).out


def test_run_is_silent_about_a_ledger_that_distinguishes_parameters(command: CommandLine) -> None:
    """The second run with the same ones has nothing left to do, as the class says."""
    command.write(JOBS.replace('entity = "user"', 'entity = "user"\n    processed_per = ("days",)'))
    for days in (2, 3, 3):
        out = command("run", command.target, "-p", f"days={days}").out
        assert "does not distinguish parameters" not in out
    assert "All items already processed" in out


LARGE = JOBS.replace(
    "class Greet(BatchWorkflow[Params]):", "class Greet(BatchWorkflow[Params]):\n    confirm_above = 10"
)


def test_run_asks_before_a_large_batch(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A no starts nothing; a yes and `--yes` start it, and a smaller one is not asked about."""
    command.write(LARGE)
    assert command("run", command.target).is_usage_error("no terminal to confirm it; add --yes (Start a batch of more")
    asked: list[str] = []
    said = iter([False, True])

    def answer(question: str, err: bool) -> bool:
        asked.append(question)
        return next(said)

    monkeypatch.setattr("batchflow.cli.options.is_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", answer)
    assert command("run", command.target).is_usage_error("not confirmed; nothing has changed")
    assert command("batches", "list", "--json").document["batches"] == []
    for arguments in (("--limit", "10"), (), ("--force", "--yes")):
        assert command("run", command.target, *arguments).code == 0
    assert asked == ["Start a batch of more than 10 users?"] * 2
