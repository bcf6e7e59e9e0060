"""The script: the Lua files as one program, its execution on a server, and the groups of verbs that it runs."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, cast, get_args

from pydantic_core import to_json
from redis import exceptions
from redis.asyncio import RedisCluster

from batchflow.core import batch, flow, message, posts, settlement, store, wire_runs
from batchflow.core.batch import ItemState
from batchflow.core.dead_letters import KEPT_ATTEMPTS, fingerprint_of, status_of
from batchflow.core.ports import Clock
from batchflow.core.run import NEVER, Step
from batchflow.core.schedule import schedule_key
from batchflow.core.secrets import SECRET_OUTCOME, marked_text
from batchflow.core.settlement import Notice, Settlement
from batchflow.errors import StoreError
from batchflow.stores import base
from batchflow.stores.base import Answers, Operation
from batchflow.stores.redis import clients, errors, keys, protocol
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.protocol import ScriptRequest, VerbCall

_COMMAND = re.compile(r"\b(?:call|pcall|buffer\.\w+)\('([A-Z]+)'")


@dataclass(frozen=True, slots=True)
class Script:
    """The files of `lua/` in two equivalent forms: a script, and a library with one function.

    A server evaluates a script at each call, and a library once. The name of the function contains a hash of its text,
    so that two versions of batchflow can use one server.
    """

    text: str
    sha: str
    library: str
    function: str


@cache
def load_script() -> Script:
    """Assemble the program: `base.lua`, Python's constants, the migrations, the nouns, and `group.lua` last."""
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
    """Lua definitions of the numbers, tables and texts that Python defines and the verbs share."""
    letters = {state: state[0] for state in get_args(ItemState)}
    constants: dict[str, Any] = {
        "COMMANDS": commands(),
        "SCHEMA": keys.SCHEMA,
        "MIGRATIONS": {},
        "CHANNEL": keys.CHANNEL,
        "BUCKET": keys.BUCKET,
        "NEVER": NEVER,
        "SECRET_OUTCOME": SECRET_OUTCOME,
        "SECRET_HEAD": marked_text("").removesuffix("}"),
        "KEPT_EVENTS": store.KEPT_EVENTS,
        "SEARCHED_BATCHES": store.SEARCHED_BATCHES,
        "MOST_COUNTED": store.MOST_COUNTED,
        **_constants_of_messages(),
        "MAX_ERROR_GROUPS": batch.MAX_ERROR_GROUPS,
        "OTHER_ERRORS": batch.OTHER_ERRORS,
        "RETRYING": base.RETRYING,
        "PARKED": base.PARKED,
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
        "ARRIVES_AFTER": {**settlement.ARRIVES_AFTER, "dead": settlement.ARRIVES_AFTER["failed"]},
        # Only the first letter of an item's state is stored.
        "ITEM_LETTER": {ending: letters[state] for ending, state in settlement.ITEM_STATE.items()},
        "ITEM_STATE": {letter: state for state, letter in letters.items()},
        "UNLIMITED": protocol.encode_limits(flow.FlowControl()),
        "LIMITS": _places(protocol.Limits),
        "MESSAGE": _places(protocol.MessageRow),
        "BATCH": _places(protocol.BatchRow),
        "STEP": _places(Step),
        "RUN_COLUMNS": base.RUN,
        "DEAD_LETTER_COLUMNS": base.DEAD_LETTER,
        "BATCH_COLUMNS": base.BATCH,
        "ITEM_COLUMNS": base.ITEM,
        "FLOW_COLUMNS": base.FLOW,
        "OPEN_MESSAGE_COLUMNS": base.OPEN_MESSAGE,
        "SEARCHED_LANES": store.SEARCHED_LANES,
        "SEARCHED_MESSAGES": store.SEARCHED_MESSAGES,
        "SCHEDULE_COLUMNS": base.SCHEDULE,
        "SCHEDULE_KEY": schedule_key(""),
    }
    return [f"local {name} = {_lua(value)}" for name, value in constants.items()]


def _constants_of_messages() -> dict[str, Any]:
    return {
        "LOSS_LIMIT": message.LOSS_LIMIT,
        "SUSPECT_LOSSES": message.SUSPECT_LOSSES,
        "LOSS_WAITS_MS": message.LOSS_WAITS_MS,
        "ALONE_MS": message.ALONE_MS,
        "WORKER_LOST": message.WORKER_LOST,
        "LOST": message.LOST,
        "RUN_AFTER_CANCEL": batch.RUN_AFTER_CANCEL,
        "LOST_STATUS": status_of(message.WORKER_LOST),
        "LOST_FINGERPRINT": fingerprint_of(message.WORKER_LOST % message.LOSS_LIMIT),
        "KEPT_ATTEMPTS": KEPT_ATTEMPTS,
        "FAILURE_STEP": message.FAILURE_STEP,
        "NOTIFICATION_STEP": message.NOTIFICATION_STEP,
        "NOTIFICATION_DESTINATION": message.NOTIFICATION_DESTINATION,
        "POST": _places(protocol.PostRow),
        "LINK": _places(protocol.LinkRow),
        "DEDUP_WINDOW_MS": posts.DEDUP_WINDOW_MS,
        "LOG_SIZE": store.ITEMS_SIZE,
        "LAST_STATES": dict.fromkeys(sorted(posts.LAST_STATES), True),
        "MAX_ENTRIES_SIZE": wire_runs.MAX_ENTRIES_SIZE,
        "WAIT_TIMEOUT": wire_runs.WAIT_TIMEOUT,
    }


def _places(row: Any) -> dict[str, int]:
    """The position of each field of a tuple in its Lua array."""
    return {name: place for place, name in enumerate(row._fields, 1)}


def _lua(value: Any) -> str:
    """A value as a Lua expression."""
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
    """The migrations, by the schema to which each brings a namespace: `lua/migrations/0011_….lua`, and so on.

    There is one for each schema after that of 0.1.0. It uses the definitions of `base.lua`.
    """
    folder = files("batchflow.stores.redis").joinpath("lua", "migrations")
    return {int(it.name[:4]): it.read_text() for it in folder.iterdir()} if folder.is_dir() else {}


@cache
def commands() -> tuple[str, ...]:
    """The Redis commands that the script runs."""
    return tuple(sorted(set(_COMMAND.findall("\n".join([*_parts(), *migrations().values()])))))


@cache
def _parts() -> tuple[str, ...]:
    folder = files("batchflow.stores.redis").joinpath("lua")
    texts = {it.name: it.read_text() for it in folder.iterdir() if it.name.endswith(".lua")}
    base, group = texts.pop("base.lua"), texts.pop("group.lua")
    # The local names of a file are only visible in that file.
    return base, *[f"do\n{texts[name]}\nend" for name in sorted(texts)], group


def encode_request(now: int | None, store: int, operations: Sequence[bytes], *, clustered: bool = False) -> bytes:
    """The first argument of the script: the time, the number of the store, and the operations."""
    time = b"null" if now is None else b"%d" % now
    return b"[%b,%d,[%b]%b]" % (time, store, b",".join(operations), b",true" if clustered else b"")


_FULL = ("OOM", "MISCONF", "NOREPLICAS")
"""A full server starts no function at all, while a script runs as long as it needs no memory."""


class ScriptExecutor:
    """Executes the script on the server of one client, as a function or, if the server keeps no functions, as a script.

    The script is loaded when the server does not have it: at first, after a restart or a flush, on a new primary, on
    the node to which a slot has moved. A call that is refused has done nothing, so it is repeated.
    """

    def __init__(self, client: Client) -> None:
        self._client = cast(Any, client)
        self._clustered = isinstance(client, RedisCluster)
        self._program = load_script()
        self._functions = True

    async def execute(self, key: str, *arguments: str | bytes) -> Any:
        """Execute the script on the server that has `key`, and return its answer."""
        if self._functions:
            try:
                return await self._function(key, *arguments)
            except exceptions.ResponseError as error:
                if not _lacks_functions(error) and not _refused_for_now(error):
                    raise
                self._functions = not _lacks_functions(error)
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
            # Another process may have loaded it first.
            if "already exists" not in str(error):
                raise


def _is_unknown(error: exceptions.ResponseError) -> bool:
    return "Function not found" in str(error)


def _lacks_functions(error: exceptions.ResponseError) -> bool:
    """True if the server does not support functions, does not accept this one, or forbids them to this user."""
    text = str(error).lower()
    if isinstance(error, exceptions.NoPermissionError):
        return "'fcall'" in text or "'function" in text
    return "unknown command" in text or "error registering functions" in text or "error compiling function" in text


def _refused_for_now(error: exceptions.ResponseError) -> bool:
    """True if the function did not start for now: the server is full, or a slot is moved to another node."""
    text = str(error)
    full = isinstance(error, exceptions.OutOfMemoryError) or text.startswith(_FULL)
    return (full and "script:" not in text) or _is_unknown(error)


class ScriptRunner:
    """Runs the verbs of one namespace on one server, in groups.

    `store` is the number that the server has given this store; `worker` is the worker whose claims this store holds, if
    there is only one. `on_settled` is called with each settlement that the server has answered, `on_notices` with
    those of a call.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        server: str,
        clock: Clock | None,
        on_settled: Callable[[Settlement], None] | None = None,
        on_notices: Callable[[Sequence[Notice]], None] | None = None,
    ) -> None:
        self._client = client
        self._clustered = isinstance(client, RedisCluster)
        self._prefix = prefix
        self._meta = f"{prefix}meta"
        self._server = server
        self._clock = clock
        self._on_settled = on_settled
        self._on_notices = on_notices
        self._executor = ScriptExecutor(client)
        self._tasks: set[asyncio.Task[Answers]] = set()
        self._opened = False
        self.store = 0
        self.worker = ""

    async def open(self, namespace: str) -> int:
        """Check the server, set up an empty namespace or migrate an older one, and return the store's number.

        Raises:
            StoreIncompatible: the server cannot be used, its user lacks rights, or another version has made the
                namespace.
        """
        self._opened = False
        self._executor = ScriptExecutor(self._client)
        await clients.check_server(self._client, self._server)
        schema, number, refused = await self.run_one("open", keys.SCHEMA, commands())
        if refused:
            raise errors.missing_commands(refused, self._server)
        keys.check_schema(schema, namespace, self._server)
        if schema < keys.SCHEMA:
            await self.run_one("migrate")
        await clients.check_eviction(self._client, self._server)
        self.store = number
        self._opened = True
        return number

    def submit(self, group: list[Operation], done: Callable[[Answers], None]) -> None:
        """Run a group in a task of its own, and call `done` with its answers on the event loop, whatever happens."""
        task = asyncio.create_task(
            self.run_group([VerbCall(operation.verb, operation.arguments) for operation in group]),
            name="batchflow-redis-group",
        )
        self._tasks.add(task)
        task.add_done_callback(partial(self._finish, group, done))

    def _finish(self, group: list[Operation], done: Callable[[Answers], None], task: "asyncio.Task[Answers]") -> None:
        self._tasks.discard(task)
        # An event loop that ends cancels all tasks; callers must get an answer nevertheless.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            done([(False, self._error_of(error))] * len(group))
            return
        answers = task.result()
        if self._on_settled is not None:
            for operation, (carried_out, _) in zip(group, answers, strict=True):
                if carried_out and operation.verb == "settle":
                    self._on_settled(operation.arguments[0])
        done(answers)

    async def run_group(self, operations: Sequence[VerbCall]) -> Answers:
        """Run a group, and return the answer or the error of each operation. Raises nothing."""
        answers: Answers = [(True, None)] * len(operations)
        request = ScriptRequest(operations, self.worker)
        for slot, error in request.refused:
            refused = StoreError(f"{self._server} cannot take this: {error}")
            refused.__cause__ = error
            answers[slot] = (False, refused)
        if not request.slots:
            return answers
        now = self._clock.now() if self._clock else None
        text = encode_request(now, self.store, request.texts, clustered=self._clustered)
        try:
            reply = await self._executor.execute(self._meta, text, *request.fast_path_arguments)
        except errors.ERRORS as error:
            failed = self._error_of(error)
            if not failed.retryable and len(request.slots) > 1:
                # An operation that can never succeed must fail alone: each runs again by itself.
                for slot in request.slots:
                    (answers[slot],) = await self.run_group([operations[slot]])
                return answers
            for slot in request.slots:
                answers[slot] = (False, failed)
            if errors.is_demoted(str(error)):
                await clients.reconnect(self._client)
            return answers
        demoted = False
        for slot, fine, answer in request.answers(reply):
            answers[slot] = (fine, answer if fine else self._error_of_answer(answer))
            demoted = demoted or (not fine and errors.is_demoted(answer))
        if request.notices and self._on_notices is not None:
            self._on_notices(request.notices)
        if demoted:
            await clients.reconnect(self._client)
        return answers

    async def run_one(self, verb: str, *arguments: Any) -> Any:
        """Run one operation by itself."""
        # In a task of its own: redis-py sometimes swallows a cancellation, and then the caller could not be cancelled.
        task = asyncio.create_task(self.run_group([VerbCall(verb, arguments)]), name="batchflow-redis-call")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ((fine, answer),) = await asyncio.shield(task)
        if not fine:
            raise answer
        return answer

    def with_client(self, client: Client) -> "ScriptRunner":
        """A runner for the same namespace whose client belongs to another event loop."""
        runner = ScriptRunner(client, self._prefix, self._server, self._clock, None, self._on_notices)
        runner.store, runner._opened = self.store, self._opened
        return runner

    def _error_of(self, error: BaseException) -> StoreError:
        meant = errors.translate_error(error, self._server)
        if self._opened:
            meant = errors.as_temporary(meant)
        meant.__cause__ = error
        return meant

    def _error_of_answer(self, answer: str) -> StoreError:
        meant = errors.error_of_answer(answer, self._server)
        return errors.as_temporary(meant) if self._opened else meant
