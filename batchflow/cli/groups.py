"""Groups of commands: whole sentences in their help, and a suggestion for a command that a group does not have."""

from difflib import get_close_matches
from typing import Any

from typer.core import TyperGroup

from batchflow.errors import InputError

ID_PREFIXES = ("bat_", "run_")
"""The beginnings of the ids that a batch and a run get; their users may name them otherwise."""

_SYNONYMS = {
    "ls": ("list",),
    "all": ("list",),
    "get": ("show",),
    "status": ("show",),
    "info": ("show",),
    "describe": ("show",),
    "errors": ("show",),
    "failed": ("show",),
    "items": ("item", "show"),
    "events": ("waiters",),
    "history": ("items",),
    "stop": ("cancel",),
    "kill": ("cancel",),
    "abort": ("cancel",),
    "start": ("trigger", "run", "worker"),
    "create": ("trigger", "run"),
    "invoke": ("trigger",),
    "send": ("notify",),
    "delete": ("forget", "cancel"),
    "remove": ("delete", "forget", "cancel"),
    "rm": ("delete", "forget", "cancel"),
    "retry": ("resume",),
    "redrive": ("resume",),
    "dump": ("export",),
    "load": ("import",),
    "lint": ("check",),
}
"""Words of other tools, with the commands that they can mean here."""


class CommandGroup(TyperGroup):
    """A group of commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with its first sentence in full."""
        commands = [(name, it) for name in self.list_commands(ctx) if (it := self.get_command(ctx, name)) is not None]
        rows = [(name, (it.help or "").split("\n\n", 1)[0].replace("\n", " ")) for name, it in commands]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names.

        Raises:
            InputError: there is no such command; the sentence has the one that was meant.
        """
        if args and self.get_command(ctx, args[0]) is None:
            raise InputError(f"'{ctx.command_path}' has no command '{args[0]}'{self._meant(ctx.command_path, args)}")
        return super().resolve_command(ctx, args)

    def _meant(self, path: str, args: list[str]) -> str:
        word, *rest = args
        names = sorted(self.commands)
        if word.startswith(ID_PREFIXES):
            group = "runs" if word.startswith("run_") or "." in word else "batches"
            return f"; write: batchflow {group} show {word}"
        found = [it for it in _SYNONYMS.get(word.lower(), ()) if it in names] or get_close_matches(word.lower(), names)
        if found:
            return f"; did you mean: {' '.join((path, found[0], *rest))}"
        listed = ", ".join(f"'{it}'" for it in names)
        target = "; an app is named as MODULE:ATTR" if "list" in names else ""
        return f"; known are {listed}{target}"
