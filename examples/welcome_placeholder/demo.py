"""The demo: a dry run and a batch, as two commands with a line of explanation each."""

import os
import shlex
import sys

from batchflow.cli import invoke
from batchflow.cli.output import program_name

TARGET = "examples.welcome_placeholder:flow"
COUNT = ("run", TARGET, "welcome-placeholder", "--dry-run")
RUN = ("run", TARGET, "welcome-placeholder")


def main() -> None:
    """Run it; the process ends with the exit code of the command that went wrong, or 0."""
    # The log lines of every page are worth reading, but not first.
    os.environ.setdefault("BATCHFLOW_LOG_LEVEL", "WARNING")
    from examples.welcome_placeholder import database, users

    path = database()
    done = users().count_placeholders()
    print("1,000 users get a few texts for their empty message box, from a text model:")
    print("here a local one, without network. The users and their texts are in")
    print(f"{path}, what batchflow knows is in batchflow.db; both lie in this folder.")
    carry_out("A dry run counts what there is to do. It starts nothing.", COUNT)
    explanation = "Now the batch. Ctrl-C stops it, and the same command goes on where it was."
    if done == users().count(paid_only=False):
        explanation = "Everybody has their texts from the last time, so the batch has nothing to do."
    carry_out(explanation, RUN)
    show_what_is_there()


def carry_out(explanation: str, arguments: tuple[str, ...]) -> None:
    """Say what a command does, show it, and run it."""
    print(f"\n{explanation}\n\n$ {command_text(arguments)}", flush=True)
    code = invoke(arguments)
    if code:
        sys.exit(code)


def command_text(arguments: tuple[str, ...]) -> str:
    """A command on lines of at most 76 characters, to be copied from a terminal."""
    lines = [program_name()]
    for word in arguments:
        if len(lines[-1]) + len(word) > 72:
            lines[-1] += " \\"
            lines.append(f"      {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return "\n".join(lines)


def show_what_is_there() -> None:
    """The result, and what to do next."""
    from examples.welcome_placeholder import database, users

    found = users().placeholders("user-0001")
    if found is not None:
        print("\nuser-0001 now reads one of:")
        for text in found.texts:
            print(f"  {text}")
    print(f"""
Next:
  {program_name()} batches
  {command_text(("run", TARGET, "agent-welcome", "-p", "paidOnly=true"))}
  {command_text((*RUN, "--ids", "user-0001,user-0002"))}
  {command_text(("run", TARGET, "user-interests"))}

To start over:
  rm batchflow.db* {database()}*""")


if __name__ == "__main__":
    main()
