"""`batchflow flow`: flow keys are listed, shown and changed, on the store alone."""

import pytest

from tests.cli.command_line import CommandLine

KEY = "greet.execute"


@pytest.fixture
def ran(command: CommandLine) -> CommandLine:
    """The command in a folder whose store knows the keys of `greet`."""
    command("run", command.target, "--limit", "1", "--json")
    return command


def test_flow_lists_keys(ran: CommandLine) -> None:
    """With the limits in force and their state."""
    ran("flow", "pause", KEY, "--for", "2h")
    lines = ran("flow").out.splitlines()
    assert lines[0].split() == ["key", "parallelism", "rate", "in", "use", "waiting", "state"]
    (line,) = [it for it in lines if it.startswith(KEY)]
    assert "paused until 20" in line
    assert KEY in [it["key"] for it in ran("flow", "list", "--json").document["keys"]]


def test_flow_pin_lasts_for_its_time(ran: CommandLine) -> None:
    """Both limits, until the time that is shown."""
    answer = ran("flow", "pin", KEY, "--parallelism", "5", "--rate", "100/1m", "--for", "2h")
    assert answer.code == 0
    assert "5 pinned until 20" in answer.out
    assert "100/1m pinned until 20" in answer.out
    shown = ran("flow", "show", KEY, "--json").document
    assert (shown["parallelism"], shown["rate"], shown["period"], shown["holders"]) == (5, 100, "1m", [])


def test_flow_commands_tell_when_there_was_nothing_to_do(ran: CommandLine) -> None:
    """By exit code 1."""
    assert (ran("flow", "unpin", KEY).code, ran("flow", "resume", KEY).code) == (1, 1)
    ran("flow", "pin", KEY, "--parallelism", "5")
    ran("flow", "pause", KEY)
    assert ran("flow", "unpin", KEY, "--rate").code == 1
    assert (ran("flow", "unpin", KEY, "--parallelism").code, ran("flow", "resume", KEY).code) == (0, 0)
    assert ran("flow", "reset", KEY).code == 0


def test_flow_refuses_what_is_wrong(ran: CommandLine) -> None:
    """With one sentence that names the option as it is written."""
    assert ran("flow", "pause", "greet.exec").is_usage_error("did you mean 'greet.execute'?")
    assert ran("flow", "pin", KEY).is_usage_error("give --parallelism N, --rate N/TIME or both")
    assert ran("flow", "pin", KEY, "--rate", "2x").is_usage_error("'--rate' cannot be '2x'")
    assert ran("flow", "pause", KEY, "--for", "soon").is_usage_error("'--for' cannot be 'soon'")
