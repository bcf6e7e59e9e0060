"""`batchflow schedules`: list, show, create, pause, resume, trigger and delete."""

from tests.cli.command_line import JOBS, CommandLine, column_titles


def create(command: CommandLine, *options: str, id: str = "nightly", cron: str = "0 3 * * *") -> None:
    """A schedule of the workflow `greet`."""
    answer = command("schedules", "create", command.target, "greet", cron, "--id", id, *options)
    assert (answer.code, answer.err) == (0, "")


def test_a_schedule_is_made_and_shown(command: CommandLine) -> None:
    """With its next fires in its own time zone, whatever that of the machine is."""
    create(command, "--timezone", "Asia/Tokyo", "-p", "days=3", "--overlap", "queue", "--label", "l")
    shown = command("schedules", "show", "nightly").out
    assert "Schedule nightly: starts greet" in shown
    assert " 03:00 +0900" in shown
    assert '"days":3' in shown
    assert "no worker serves it" in shown
    document = command("schedules", "show", "nightly", "--json").document
    assert len(document["upcoming"]) == 5
    assert all(at.endswith("T03:00:00+09:00") for at in document["upcoming"])
    assert (document["overlap"], document["label"], document["timezone"]) == ("queue", "l", "Asia/Tokyo")


def test_schedules_are_listed(command: CommandLine) -> None:
    """`batchflow schedules` lists them too, in pages."""
    create(command)
    create(command, id="weekly", cron="0 6 * * mon")
    header, *lines = command("schedules").out.splitlines()
    assert column_titles(header)[:5] == ["schedule", "cron", "time", "zone", "next"]
    assert [line.split()[0] for line in lines] == ["nightly", "weekly"]
    page = command("schedules", "list", "--limit", "1", "--json").document
    assert ([it["scheduleId"] for it in page["schedules"]], page["nextCursor"]) == (["nightly"], "nightly")
    assert "weekly" in command("schedules", "list", "--cursor", "nightly").out


def test_a_schedule_is_paused_and_resumed(command: CommandLine) -> None:
    """The list says so."""
    create(command)
    assert command("schedules", "pause", "nightly").out == "Schedule nightly is paused\n"
    assert "paused" in command("schedules").out
    assert "fires next at" in command("schedules", "resume", "nightly").out
    assert command("schedules", "pause", "nightly", "--json").document["isPaused"]


def test_a_schedule_is_fired_now(command: CommandLine) -> None:
    """The exit code is 1 if the previous one has not ended."""
    create(command)
    answer = command("schedules", "trigger", command.target, "nightly")
    assert (answer.code, answer.out.startswith("Started bat_")) == (0, True)
    answer = command("schedules", "trigger", command.target, "nightly")
    assert (answer.code, "has not ended" in answer.out) == (1, True)
    document = command("schedules", "trigger", command.target, "nightly", "--json").document
    assert (document["outcome"], document["schedule"]["skips"]) == ("skipped", 2)


def test_a_schedule_is_deleted(command: CommandLine) -> None:
    """Once it is confirmed."""
    create(command)
    assert command("schedules", "delete", "nightly").is_usage_error("add --yes")
    assert command("schedules", "delete", "nightly", "--yes").out == "Deleted schedule nightly\n"
    assert command("schedules").out == "No schedules\n"
    assert command("schedules", "delete", "nightly", "--yes").is_usage_error("no schedule 'nightly'")


def test_a_wrong_schedule_is_a_usage_error(command: CommandLine) -> None:
    """In one sentence, with the options as the command line has them."""

    def refused(*arguments: str, name: str = "greet", cron: str = "0 3 * * *") -> str:
        answer = command("schedules", "create", command.target, name, cron, *arguments)
        assert answer.code == 2
        return answer.err

    assert "'cron' cannot be '0 3 * *'" in refused(cron="0 3 * *")
    assert "'--timezone' cannot be 'Nope'" in refused("--timezone", "Nope")
    assert "'--overlap' cannot be 'no'" in refused("--overlap", "no")
    assert "did you mean 'greet'" in refused(name="gret")
    assert "'dys'" in refused("-p", "dys=3")
    assert "'--id' cannot be 'a b'" in refused("--id", "a b")


def test_a_command_that_runs_one_batch_fires_no_schedule(command: CommandLine) -> None:
    """Nor does it declare those of the code: that is what a worker does."""
    command.write(JOBS.replace('entity = "user"', 'entity = "user"\n    schedule = "* * * * *"'))
    assert command("run", command.target, "--limit", "2", "--json").code == 0
    assert command("schedules").out == "No schedules\n"
