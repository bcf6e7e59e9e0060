"""The failures of a batch, an item or a run, as the command prints them: by kind, or in full."""

import sys
from collections.abc import Mapping, Sequence

from batchflow.batch.names import quantity
from batchflow.cli import process
from batchflow.cli.output import Output
from batchflow.core.batch import ErrorGroup
from batchflow.core.report import headline, one_line
from batchflow.logs import escape_controls
from batchflow.serve.failure import describe_error, error_report, own_traceback, traceback_parts


def print_groups(output: Output, groups: Sequence[ErrorGroup]) -> None:
    """Print each kind of error as one line: how many items it has failed, the latest message, the user's line."""
    for group in groups:
        output.print(f"  {_extent(group)}: {group.message or group.type}{_place(group)}", style="red")


def print_groups_with_examples(output: Output, groups: Sequence[ErrorGroup], errors: Mapping[int, str]) -> None:
    """Print each kind of error with the latest item that has it, and the lines of the user's code that led there.

    `errors` are stored ones by the number of the item, or -1 for the batch's own steps.
    """
    for group in groups:
        error = errors.get(group.number, "")
        # The item may have failed otherwise since then.
        is_example = group.type in one_line(headline(error))
        message = group.type if is_example else group.message or group.type
        output.print(f"  {_extent(group)}: {message}{_place(group)}", style="red")
        if is_example and group.item is not None:
            output.print(f"    such as item {group.item} (number {group.number}):")
        if is_example:
            _print_lines(output, own_traceback(error) or headline(error), "    ")


def print_error(output: Output, error: str, indent: str = "  ") -> None:
    """Print a stored error in full, without batchflow's own frames: the error itself, and below it what caused it."""
    for place, part in enumerate(traceback_parts(error)):
        if place:
            output.print(f"{indent}caused by:")
        _print_lines(output, part or headline(error), indent)


def print_failed_dry_run(error: Exception) -> None:
    """Print an error of the user's code to stderr with the lines of this code alone; any other error is raised."""
    report = error_report(error)
    if not (lines := own_traceback(report)):
        raise error
    process.print_error(f"the dry run failed: {describe_error(error)}")
    for line in lines.splitlines():
        # The sentence above has the message.
        if line.startswith(" "):
            print(escape_controls(line), file=sys.stderr)


def _print_lines(output: Output, text: str, indent: str) -> None:
    for line in text.splitlines():
        if not line.startswith("Traceback ("):
            output.print(indent + line)


def _extent(group: ErrorGroup) -> str:
    attempts = quantity(group.attempts, "attempt")
    if group.number < 0:
        return f"{attempts} of the batch's own steps"
    if not group.items:
        return f"{attempts}, no item failed"
    return f"{quantity(group.items, 'item')} failed ({attempts})"


def _place(group: ErrorGroup) -> str:
    return f" ({group.where})" if group.where else ""
