"""The one script: all Lua files put together, and how a group of operations is carried out by it."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

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
    text = "\n".join([base, f"local COMMANDS = {{ {names} }}", *parts])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def commands() -> tuple[str, ...]:
    """The commands that the script runs."""
    return tuple(sorted(set(_COMMAND.findall("\n".join(_parts())))))


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
