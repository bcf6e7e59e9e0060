"""The one program for the server: all Lua files put together, and how a group of operations is carried out by it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast, get_args

from pydantic_core import to_json

from batchflow.core import flow, message, settlement
from batchflow.core.batch import ItemState
from batchflow.core.run import NEVER, Step
from batchflow.core.store import KEPT_EVENTS
from batchflow.stores import slices
from batchflow.stores.redis import keys, wire

_COMMAND = re.compile(r"\b(?:call|pcall|buffer\.\w+)\('([A-Z]+)'")


@dataclass(frozen=True, slots=True)
class Script:
    """All of `lua/` in its two forms, which carry out the same: a script, and a library of one function.

    A script is made anew at each call. A library is made once, by servers that keep functions; its name tells what is
    in it, so that two versions that use one server do not meet.
    """

    text: str
    sha: str
    library: str
    function: str


@cache
def script() -> Script:
    """What the verbs share, what is known from here, the verbs, and what carries out a group last."""
    base, *parts = _parts()
    steps = [f"MIGRATIONS[{schema}] = function()\n{text}\nend" for schema, text in sorted(migrations().items())]
    body = "\n".join([base, *_given(), *steps, *parts])
    text = f"{body}\nreturn carry_out(KEYS, ARGV)"
    function = f"batchflow_{_sha(body)[:16]}"
    library = f"#!lua name={function}\n{body}\nredis.register_function('{function}', carry_out)"
    return Script(text, _sha(text), library, function)


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _given() -> list[str]:
    """The numbers, tables and names of rules that are written down elsewhere, and that the verbs keep to here."""
    letters = {state: state[0] for state in get_args(ItemState)}
    given: dict[str, Any] = {
        "COMMANDS": commands(),
        "SCHEMA": keys.SCHEMA,
        "MIGRATIONS": {},
        "CHANNEL": keys.CHANNEL,
        "BUCKET": keys.BUCKET,
        "NEVER": NEVER,
        "KEPT_EVENTS": KEPT_EVENTS,
        "LOSS_LIMIT": message.LOSS_LIMIT,
        "SUSPECT_LOSSES": message.SUSPECT_LOSSES,
        "LOSS_WAITS_MS": message.LOSS_WAITS_MS,
        "ALONE_MS": message.ALONE_MS,
        "WORKER_LOST": message.WORKER_LOST,
        "CATCH_UP_MS": flow.CATCH_UP_MS,
        "SKEW_MS": flow.SKEW_MS,
        "STARTED_OF_FRESH": flow.STARTED_OF_FRESH,
        "SWEPT": slices.SWEPT,
        "SWEPT_AT_ONCE": slices.SWEPT_AT_ONCE,
        "IDLE_AT_ONCE": slices.IDLE,
        "LANES_AT_ONCE": slices.LANES,
        "STAYS": dict.fromkeys(sorted(settlement.STAYS), True),
        "RUN_STATE": settlement.RUN_STATE,
        "ARRIVES": settlement.ARRIVES,
        # Of an item's state only its letter is kept.
        "ITEM_STATE": {ending: letters[state] for ending, state in settlement.ITEM_STATE.items()},
        "SHOWN": {letter: state for state, letter in letters.items()},
        "FAILURE_FLOW": wire.limits(message.FAILURE_FLOW),
        "UNLIMITED": wire.limits(flow.FlowControl()),
        "LIMITS": _places(wire.Limits),
        "MESSAGE": _places(wire.MessageRow),
        "BATCH": _places(wire.BatchRow),
        "STEP": _places(Step),
    }
    return [f"local {name} = {_lua(value)}" for name, value in given.items()]


def _places(row: Any) -> dict[str, int]:
    """Where each field of a tuple stands in the array that is made of it."""
    return {name: place for place, name in enumerate(row._fields, 1)}


def _lua(value: Any) -> str:
    """A value as Lua writes it."""
    match value:
        case None:
            return "false"
        case bool() | int():
            return str(value).lower()
        case str():
            return to_json(value).decode()
        case Mapping():
            named = cast(Mapping[str, Any], value)
            return f"{{ {', '.join(f'{name} = {_lua(one)}' for name, one in named.items())} }}"
        case _:
            return f"{{ {', '.join(_lua(one) for one in value)} }}"


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
