"""Completion of the command by a shell."""

from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, wait_for_exit


@pytest.mark.parametrize(
    ("words", "count", "expected"),
    [
        ("batchflow ba", 1, {"batches"}),
        ("batchflow batches pa", 2, {"pause"}),
        ("batchflow flow un", 2, {"unpin"}),
        ("batchflow batches why --", 3, {"--url", "--json", "--help"}),
    ],
)
def test_completion_offers_commands_and_options(
    command: CommandLine, words: str, count: int, expected: set[str]
) -> None:
    """Those of groups, too; without a store, and without importing an app."""
    command.write("raise SystemExit('imported')")
    environment = {"_BATCHFLOW_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    found = wait_for_exit(command.start(**environment))
    assert (found.code, set(found.out.split()), found.err) == (0, expected, "")


def test_completion_is_installed_for_a_shell(command: CommandLine, tmp_path: Path) -> None:
    """Into the files of that shell."""
    environment = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    installed = wait_for_exit(command.start("--install-completion", "zsh", **environment))
    assert (installed.code, installed.err) == (0, "")
    assert "_BATCHFLOW_COMPLETE" in (tmp_path / ".zfunc" / "_batchflow").read_text()
