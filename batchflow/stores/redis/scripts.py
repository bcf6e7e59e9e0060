"""The one script: all Lua files put together, and how a group of operations is carried out by it."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from batchflow.stores.redis import keys

_COMMAND = re.compile(r"\b(?:call|pcall|buffer\.\w+)\('([A-Z]+)'")


@dataclass(frozen=True, slots=True)
class Script:
    """The text of the script and the name the server keeps it under."""

    text: str
    sha: str


@cache
def script() -> Script:
    """All of `lua/`: what the verbs share, the verbs, and the dispatcher last."""
    base, *parts = _parts()
    names = ", ".join(f"'{name}'" for name in commands())
    given = [f"local COMMANDS = {{ {names} }}", f"local SCHEMA = {keys.SCHEMA}", "local MIGRATIONS = {}"]
    steps = [f"MIGRATIONS[{schema}] = function()\n{text}\nend" for schema, text in sorted(migrations().items())]
    text = "\n".join([base, *given, *steps, *parts])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def migrations() -> dict[int, str]:
    """What brings a namespace to each schema from the one before, by schema: `lua/migrations/0011_….lua`, and so on.

    There is one for each schema after that of 0.1.0. It uses what `a_base.lua` gives to all verbs.
    """
    folder = files("batchflow.stores.redis").joinpath("lua", "migrations")
    return {int(it.name[:4]): it.read_text() for it in folder.iterdir()} if folder.is_dir() else {}


@cache
def commands() -> tuple[str, ...]:
    """The commands that the script runs."""
    return tuple(sorted(set(_COMMAND.findall("\n".join([*_parts(), *migrations().values()])))))


@cache
def _parts() -> tuple[str, ...]:
    folder = files("batchflow.stores.redis").joinpath("lua")
    parts: list[str] = []
    for place in ("lib", "", "reads"):
        entries = sorted(folder.joinpath(place).iterdir(), key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.endswith(".lua") and entry.name not in {"group.lua", "a_base.lua"}:
                # Names of one file stay in that file.
                parts.append(f"do\n{entry.read_text()}\nend")
    base = folder.joinpath("lib", "a_base.lua").read_text()
    return base, *parts, folder.joinpath("group.lua").read_text()


def request(now: int | None, store: int, operations: Sequence[bytes], *, clustered: bool = False) -> bytes:
    """What is asked of the script: its one argument."""
    time = b"null" if now is None else b"%d" % now
    return b"[%b,%d,[%b]%b]" % (time, store, b",".join(operations), b",true" if clustered else b"")
