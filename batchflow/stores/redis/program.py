"""Having the server carry out a group: by a function that it keeps, or by a script where it keeps none."""

from typing import Any, cast

from redis import exceptions
from redis.asyncio import RedisCluster

from batchflow.stores.redis import scripts
from batchflow.stores.redis.clients import Client

_FULL = ("OOM", "MISCONF", "NOREPLICAS")
"""A server that is full starts no function at all, while a script may go as far as it takes no room."""


class Program:
    """What `scripts` has put together, on the server of one client.

    It is put there when the server does not have it: first of all, after a restart or a flush, on a new primary, on
    the node to which a slot has moved. Nothing is carried out by a call that is refused, so that another follows.
    """

    def __init__(self, client: Client) -> None:
        self._client = cast(Any, client)
        self._clustered = isinstance(client, RedisCluster)
        self._program = scripts.script()
        self._functions = True

    async def run(self, key: str, *arguments: str | bytes) -> Any:
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
