"""The reports of `batchflow dlq`: lists, groups, one dead letter."""

from collections.abc import Sequence

from batchflow.cli.failures import print_error
from batchflow.cli.output import Output, format_local_time, print_pairs, print_table, program_name, time_column
from batchflow.cli.runs import print_steps, truncate
from batchflow.core.call import printable_url
from batchflow.core.dead_letters import DeadLetter, DeadLetterGroup
from batchflow.core.duration import humanize_duration
from batchflow.core.report import headline, one_line
from batchflow.core.run import Run
from batchflow.core.secrets import masked_text
from batchflow.serve.dead_letters import POSTS_ADVICE, DeadLetterPage, is_post
from batchflow.wire.envelope import ENDING_CALL_TYPES, Envelope


def print_letters(output: Output, page: DeadLetterPage) -> None:
    """Print a list of dead letters with their errors, and the cursor of the next page."""
    if not page.letters:
        output.print("No dead letters")
        return
    died, times = time_column("died", [letter.died_at for letter in page.letters])
    rows = [
        [time, str(letter.status), f"{letter.attempts:,}", letter.fingerprint, letter.id, _subject(letter)]
        for letter, time in zip(page.letters, times, strict=True)
    ]
    columns = [died, "status", "attempts", "group", "dead letter", "of"]
    below = [one_line(headline(letter.error)) for letter in page.letters]
    print_table(output, columns, rows, [""] * len(rows), numbers=("status", "attempts"), below=below)
    if page.next_cursor is not None:
        output.print(f"more: --cursor {page.next_cursor}", style="dim")


def print_letter_groups(output: Output, groups: Sequence[DeadLetterGroup], *, of_posts: bool) -> None:
    """Print groups of dead letters with the latest error of each; `of_posts` if the first is one of posts."""
    if not groups:
        output.print("No dead letters")
        return
    first, firsts = time_column("first", [group.first_at for group in groups])
    last, lasts = time_column("last", [group.last_at for group in groups])
    rows = [
        [f"{it.size:,}", it.fingerprint, begun, ended, it.where]
        for it, begun, ended in zip(groups, firsts, lasts, strict=True)
    ]
    below = [it.message for it in groups]
    print_table(
        output, ["count", "group", first, last, "where"], rows, [""] * len(rows), numbers=("count",), below=below
    )
    if of_posts:
        output.print(f"again: {POSTS_ADVICE}", style="dim")
        return
    output.print(
        f"again: {program_name()} dlq resume --group {groups[0].fingerprint or 'GROUP'} --canary 5", style="dim"
    )


def print_letter(output: Output, letter: DeadLetter, run: Run | None) -> None:
    """Print one dead letter with its request, error, attempts and steps."""
    message, of_post = letter.message, is_post(letter)
    failure = None if of_post else letter.failure
    rows = {
        "dead letter": letter.id + (f" ({letter.label})" if letter.label else ""),
        "of": message.destination,
        **(_post_rows(letter) if of_post else {}),
        "workflow": letter.workflow or "",
        "batch": message.batch or "",
        "item": "" if letter.item is None else f"{letter.item} (number {letter.number})",
        "parent": message.parent[0] if message.parent else "",
        "headers": ", ".join(message.headers),
        "body": truncate(masked_text(message.body)) if message.body != "null" and not of_post else "",
        "status": str(letter.status),
        "group": letter.fingerprint,
        "attempts": f"{letter.attempts:,}",
        "created": format_local_time(letter.created_at),
        "died": format_local_time(letter.died_at),
        "failure function": "" if failure is None else _failure_text(failure.state, failure.error),
        "returned": truncate(masked_text(failure.result)) if failure and failure.result else "",
    }
    print_pairs(output, {name: value for name, value in rows.items() if value})
    output.print("Error:", style="bold")
    print_error(output, letter.error)
    if letter.attempt_log:
        output.print("Latest attempts:", style="bold")
        cells = [
            [
                format_local_time(it.at, "%H:%M:%S"),
                "" if it.took_ms is None else humanize_duration(int(it.took_ms)),
            ]
            for it in letter.attempt_log
        ]
        below = [it.error for it in letter.attempt_log]
        print_table(output, ["at", "took"], cells, [""] * len(cells), below=below)
    if run is not None and not of_post:
        print_steps(output, run)


def _failure_text(state: str, error: str | None) -> str:
    return state.replace("_", " ") + (f": {one_line(headline(error))}" if error else "")


def _subject(letter: DeadLetter) -> str:
    if letter.item is not None:
        return f"item {letter.item}"
    if is_post(letter):
        return f"tenant {letter.label}"
    return letter.message.destination


def _post_rows(letter: DeadLetter) -> dict[str, str]:
    """The rows of a message of the server, without its headers, its body and the query of its URL."""
    envelope, id = Envelope.of_text(letter.message.body), letter.id
    run = envelope.run
    of_run = run is not None and run.call_type in ENDING_CALL_TYPES
    unrecorded = letter.failure is not None and letter.failure.state == "failed"
    return {
        "of": f"batchflow server, tenant {letter.label}",
        "sent to": printable_url(envelope.url),
        "workflow run": "" if run is None else run.run,
        "retry": "" if of_run else f"POST /v2/dlq/retry/{id}",
        "resume": f"POST /v2/workflows/dlq/resume/{id}" if of_run else "",
        "restart": f"POST /v2/workflows/dlq/restart/{id}" if of_run else "",
        "end": f"not recorded; '{program_name()} dlq callback {id}' records it" if unrecorded else "",
    }
