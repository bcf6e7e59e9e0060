"""The one program for the server: all Lua files put together, and how a group of operations is carried out by it."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast, get_args

from pydantic_core import to_json
from redis import exceptions
from redis.asyncio import RedisCluster

from batchflow.core import flow, message, settlement
from batchflow.core.batch import ItemState
from batchflow.core.clock import Clock
from batchflow.core.run import NEVER, Step
from batchflow.core.settlement import Settlement
from batchflow.core.store import KEPT_EVENTS
from batchflow.errors import StoreError
from batchflow.stores import base
from batchflow.stores.base import Answers, Operation
from batchflow.stores.redis import clients, errors, keys, protocol
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.protocol import ScriptRequest, VerbCall

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
def load_script() -> Script:
    """What the verbs share, what is known from here, the verbs, and what carries out a group last."""
    base, *parts = _parts()
    steps = [f"MIGRATIONS[{schema}] = function()\n{text}\nend" for schema, text in sorted(migrations().items())]
    body = "\n".join([base, *_constants(), *steps, *parts])
    text = f"{body}\nreturn carry_out(KEYS, ARGV)"
    function = f"batchflow_{_sha(body)[:16]}"
    library = f"#!lua name={function}\n{body}\nredis.register_function('{function}', carry_out)"
    return Script(text, _sha(text), library, function)


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _constants() -> list[str]:
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
        "SWEEP_LIMIT": base.SWEEP_LIMIT,
        "SWEEP_LIMIT_AT_CANCEL": base.SWEEP_LIMIT_AT_CANCEL,
        "IDLE_KEYS_LIMIT": base.IDLE_KEYS_LIMIT,
        "LANES_LIMIT": base.LANES_LIMIT,
        "STAYS": dict.fromkeys(sorted(settlement.STAYS), True),
        "RUN_STATE": settlement.RUN_STATE,
        "ARRIVES": settlement.ARRIVES,
        # Of an item's state only its letter is kept.
        "ITEM_LETTER": {ending: letters[state] for ending, state in settlement.ITEM_STATE.items()},
        "ITEM_STATE": {letter: state for state, letter in letters.items()},
        "FAILURE_FLOW": protocol.encode_limits(message.FAILURE_FLOW),
        "UNLIMITED": protocol.encode_limits(flow.FlowControl()),
        "LIMITS": _places(protocol.Limits),
        "MESSAGE": _places(protocol.MessageRow),
        "BATCH": _places(protocol.BatchRow),
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

    There is one for each schema after that of 0.1.0. It uses what `base.lua` gives to all verbs.
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
    texts = {it.name: it.read_text() for it in folder.iterdir() if it.name.endswith(".lua")}
    base, group = texts.pop("base.lua"), texts.pop("group.lua")
    # Local names of one file stay in that file.
    return base, *[f"do\n{texts[name]}\nend" for name in sorted(texts)], group


def encode_request(now: int | None, store: int, operations: Sequence[bytes], *, clustered: bool = False) -> bytes:
    """What is asked of the script: its one argument."""
    time = b"null" if now is None else b"%d" % now
    return b"[%b,%d,[%b]%b]" % (time, store, b",".join(operations), b",true" if clustered else b"")


_FULL = ("OOM", "MISCONF", "NOREPLICAS")
"""A server that is full starts no function at all, while a script may go as far as it takes no room."""


class ScriptExecutor:
    """What `scripts` has put together, on the server of one client.

    It is put there when the server does not have it: first of all, after a restart or a flush, on a new primary, on
    the node to which a slot has moved. Nothing is carried out by a call that is refused, so that another follows.
    """

    def __init__(self, client: Client) -> None:
        self._client = cast(Any, client)
        self._clustered = isinstance(client, RedisCluster)
        self._program = load_script()
        self._functions = True

    async def execute(self, key: str, *arguments: str | bytes) -> Any:
        """The answer of the server that has `key`."""
        if self._functions:
            try:
                return await self._function(key, *arguments)
            except exceptions.ResponseError as error:
                if not _keeps_none(error) and not _refused_for_now(error):
                    raise
                self._functions = not _keeps_none(error)
        try:
            return await self._client.evalsha(self._program.sha, 1, key, *arguments)
        except exceptions.NoScriptError:
            return await self._client.eval(self._program.text, 1, key, *arguments)

    async def _function(self, key: str, *arguments: str | bytes) -> Any:
        try:
            return await self._client.fcall(self._program.function, 1, key, *arguments)
        except exceptions.ResponseError as error:
            if not _is_unknown(error):
                raise
        await self._load(key)
        return await self._client.fcall(self._program.function, 1, key, *arguments)

    async def _load(self, key: str) -> None:
        where = {"target_nodes": self._client.get_node_from_key(key)} if self._clustered else {}
        try:
            await self._client.execute_command("FUNCTION LOAD", self._program.library, **where)
        except exceptions.ResponseError as error:
            # Another process may have been sooner.
            if "already exists" not in str(error):
                raise


def _is_unknown(error: exceptions.ResponseError) -> bool:
    return "Function not found" in str(error)


def _keeps_none(error: exceptions.ResponseError) -> bool:
    """Whether the server knows no functions, takes none, or lets this user have none."""
    said = str(error).lower()
    if isinstance(error, exceptions.NoPermissionError):
        return "'fcall'" in said or "'function" in said
    return "unknown command" in said or "error registering functions" in said or "error compiling function" in said


def _refused_for_now(error: exceptions.ResponseError) -> bool:
    """Whether it would not begin, or not even after it was loaded, as on a node that a slot is moved to."""
    said = str(error)
    full = isinstance(error, exceptions.OutOfMemoryError) or said.startswith(_FULL)
    return (full and "script:" not in said) or _is_unknown(error)


class ScriptRunner:
    """The script on one namespace of one server.

    `store` is the number the server has given us, `worker` who claims through this store where that is only one.
    """

    def __init__(self, client: Client, prefix: str, place: str, clock: Clock | None) -> None:
        self._client = client
        self._clustered = isinstance(client, RedisCluster)
        self._prefix = prefix
        self._meta = f"{prefix}meta"
        self._place = place
        self._clock = clock
        self._program = ScriptExecutor(client)
        self._asking: set[asyncio.Task[Answers]] = set()
        self._opened = False
        self._program = ScriptExecutor(self._client)
        self.store = 0
        self.worker = ""

    async def open(self, namespace: str) -> int:
        """Look at the server and set an empty namespace up; the number that the server gives us.

        Raises:
            StoreIncompatible: it is no server for this, its user may not do all that is needed, or the namespace was
                made by another version.
        """
        self._opened = False
        self._program = ScriptExecutor(self._client)
        await clients.check_server(self._client, self._place)
        schema, number, refused = await self.run_one("open", keys.SCHEMA, commands())
        if refused:
            raise errors.missing_commands(refused, self._place)
        keys.check_schema(schema, namespace, self._place)
        if schema < keys.SCHEMA:
            await self.run_one("migrate")
        await clients.check_eviction(self._client, self._place)
        self.store = number
        self._opened = True
        return number

    async def run_group(self, operations: Sequence[VerbCall]) -> Answers:
        """Carry out a group; of each operation its answer, or the error it failed with. Raises nothing."""
        answers: Answers = [(True, None)] * len(operations)
        packed = ScriptRequest(operations, self.worker)
        for slot, error in packed.refused:
            refused = StoreError(f"{self._place} cannot take this: {error}")
            refused.__cause__ = error
            answers[slot] = (False, refused)
        if not packed.slots:
            return answers
        try:
            reply = await self._program.execute(self._meta, self._request(packed.texts), *packed.fast_path_arguments)
        except errors.ERRORS as error:
            failed = self.failed(error)
            if not failed.retryable and len(packed.slots) > 1:
                # One that can never be carried out fails alone: each again, by itself.
                for slot in packed.slots:
                    (answers[slot],) = await self.run_group([operations[slot]])
                return answers
            for slot in packed.slots:
                answers[slot] = (False, failed)
            if errors.is_demoted(str(error)):
                await clients.reconnect(self._client)
            return answers
        demoted = False
        for slot, fine, answer in packed.answers(reply):
            answers[slot] = (fine, answer if fine else self._meaning(answer))
            demoted = demoted or (not fine and errors.is_demoted(answer))
        if demoted:
            await clients.reconnect(self._client)
        return answers

    def failed(self, error: BaseException) -> StoreError:
        """What it means that a call came to nothing."""
        meant = errors.translate_error(error, self._place)
        if self._opened:
            meant = errors.as_temporary(meant)
        meant.__cause__ = error
        return meant

    def _meaning(self, answer: str) -> StoreError:
        meant = errors.error_of_answer(answer, self._place)
        return errors.as_temporary(meant) if self._opened else meant

    async def run_one(self, verb: str, *arguments: Any) -> Any:
        """Carry out one operation by itself."""
        # In a task of its own: redis-py now and then swallows a cancellation, and whoever asks could not be cancelled.
        asking = asyncio.create_task(self.run_group([VerbCall(verb, arguments)]), name="batchflow-redis-call")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        ((fine, answer),) = await asyncio.shield(asking)
        if not fine:
            raise answer
        return answer

    def with_client(self, client: Client) -> "ScriptRunner":
        """The same by another client, which belongs to another event loop."""
        calls = ScriptRunner(client, self._prefix, self._place, self._clock)
        calls.store, calls._opened = self.store, self._opened
        return calls

    def _request(self, operations: Sequence[bytes]) -> bytes:
        now = self._clock.now() if self._clock else None
        return encode_request(now, self.store, operations, clustered=self._clustered)


class GroupSubmitter:
    """What `batchflow.stores.base.GroupCommit` hands its groups to; `on_end` is told of each settlement answered."""

    def __init__(self, calls: ScriptRunner, on_settled: Callable[[Settlement], None] | None = None) -> None:
        self._calls = calls
        self._on_end = on_settled
        self._under_way: set[asyncio.Task[Answers]] = set()

    def submit(self, group: list[Operation], done: Callable[[Answers], None]) -> None:
        """Carry a group out, and call `done` with its answers on the event loop."""

        def finished(task: asyncio.Task[Answers]) -> None:
            self._under_way.discard(task)
            if task.cancelled():
                # A loop that ends cancels all there is: whoever asked, or will ask, must not wait for this for ever.
                done([(False, self._calls.failed(asyncio.CancelledError()))] * len(group))
            elif (error := task.exception()) is not None:
                done([(False, self._calls.failed(error))] * len(group))
            else:
                answers = task.result()
                if self._on_end is not None:
                    for operation, (carried_out, _) in zip(group, answers, strict=True):
                        if carried_out and operation.verb == "settle":
                            self._on_end(operation.arguments[0])
                done(answers)

        writing = self._calls.run_group([VerbCall(operation.verb, operation.arguments) for operation in group])
        task = asyncio.create_task(writing, name="batchflow-redis-group")
        self._under_way.add(task)
        task.add_done_callback(finished)
