"""Publish, enqueue and batch: they are what a server mostly does, so they are answered without FastAPI."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

from pydantic_core import from_json, to_json
from starlette.responses import Response
from starlette.types import Receive, Scope

from batchflow.core.posts import Post, Posted
from batchflow.errors import InputError
from batchflow.server.answers import error_list, error_status, json_answer
from batchflow.server.context import ServerContext
from batchflow.server.raw_request import config_pairs, header_pairs, read_body, with_query
from batchflow.server.scheduling import make_schedule
from batchflow.wire.publish import PublishRequest, parse_publish, posts_of
from batchflow.wire.url_groups import endpoints_of_group

_SCHEMES = ("http://", "https://")
_ITEMS_AT_ONCE = 100
# Other requests are answered in between.


class _Plan(NamedTuple):
    """The posts of a request, each with the URL that its answer names."""

    posts: Sequence[Post]
    urls: Sequence[str]
    is_group: bool

    def answer(self, posted: Iterator[Posted]) -> Any:
        """The JSON of what was posted."""
        answers = [_answer(url, next(posted)) for url in self.urls]
        return answers if self.is_group else answers[0]


class PublishRoutes:
    """The routes that publish posts."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def publish(self, scope: Scope, receive: Receive, path: str) -> Response:
        """`POST /v2/publish/{destination}`."""
        return await self._publish(scope, receive, path)

    async def enqueue(self, scope: Scope, receive: Receive, path: str) -> Response:
        """`POST /v2/enqueue/{queue}/{destination}`."""
        queue, _, destination = path.partition("/")
        return await self._publish(scope, receive, destination, unquote(queue))

    async def batch(self, scope: Scope, receive: Receive, _: str) -> Response:
        """`POST /v2/batch`: all items are published, or none."""
        plans: list[_Plan] = []
        refused: list[tuple[int, str]] = []
        for number, item in enumerate(_read_items(await read_body(scope, receive))):
            try:
                plans.append(await self._plan(self._read_item(scope, item)))
            except InputError as error:
                refused.append((error_status(error), f"item {number}: {error}"))
            if number % _ITEMS_AT_ONCE == _ITEMS_AT_ONCE - 1:
                await asyncio.sleep(0)
        if refused:
            statuses = {status for status, _ in refused}
            return error_list([text for _, text in refused], statuses.pop() if len(statuses) == 1 else 400)
        posted = await self._context.post([post for plan in plans for post in plan.posts])
        each = iter(posted)
        return json_answer([plan.answer(each) for plan in plans], _status(posted))

    async def _publish(self, scope: Scope, receive: Receive, path: str, queue: str | None = None) -> Response:
        request = await read_publish(scope, receive, path, self._context.now(), queue)
        if request.cron is not None:
            return json_answer({"scheduleId": await make_schedule(self._context, request)}, 201)
        plan = await self._plan(request)
        posted = await self._context.post(plan.posts)
        return json_answer(plan.answer(iter(posted)), _status(posted))

    def _read_item(self, scope: Scope, item: object) -> PublishRequest:
        """An item of a batch."""
        match item:
            case {"destination": str(destination)}:
                fields = cast("dict[str, Any]", item)
            case _:
                raise InputError("is not a JSON object with a destination, such as https://example.com")
        request = parse_publish(
            destination,
            _item_headers(fields.get("headers")),
            _item_body(fields.get("body")),
            tenant=scope["batchflow.tenant"],
            now=self._context.now(),
            queue=_item_queue(fields.get("queue")),
            caller_ip=_caller_ip(scope),
        )
        if request.cron is not None:
            raise InputError("'upstash-cron' makes a schedule; POST it to /v2/schedules", field="upstash-cron")
        return request

    async def _plan(self, request: PublishRequest) -> _Plan:
        if not request.is_group:
            return _Plan(posts_of(request, self._new_id), [request.destination], is_group=False)
        endpoints = await endpoints_of_group(self._context.wire, request.envelope.tenant, request.destination)
        return _Plan(posts_of(request, self._new_id, endpoints), [it.url for it in endpoints], is_group=True)

    def _new_id(self) -> str:
        return self._context.new_id("msg")


async def read_publish(scope: Scope, receive: Receive, path: str, now: int, queue: str | None = None) -> PublishRequest:
    """Read a publish request, or one that makes a schedule, whose destination is `path`, not decoded.

    Raises:
        InputError: the request is not valid.
    """
    return parse_publish(
        _destination(path, scope),
        header_pairs(scope),
        await read_body(scope, receive),
        tenant=scope["batchflow.tenant"],
        now=now,
        queue=queue,
        caller_ip=_caller_ip(scope),
        query=config_pairs(scope),
    )


def _destination(path: str, scope: Scope) -> str:
    """The destination in a path: a URL as it was sent, with the query, or the name of a group."""
    if path[:8].lower().startswith(_SCHEMES):
        return with_query(path, scope)
    decoded = unquote(path)
    return with_query(decoded, scope) if decoded[:8].lower().startswith(_SCHEMES) else decoded


def _answer(url: str, posted: Posted) -> dict[str, Any]:
    answer: dict[str, Any] = {"messageId": posted.id, "url": url}
    return {**answer, "deduplicated": True} if posted.deduplicated else answer


def _status(posted: Sequence[Posted]) -> int:
    return 202 if posted and all(it.deduplicated for it in posted) else 201


def _caller_ip(scope: Scope) -> str | None:
    client = scope.get("client")
    return str(client[0]) if client else None


def _read_items(body: bytes) -> list[object]:
    try:
        items = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); send an array of items with a destination") from error
    if not isinstance(items, list):
        raise InputError("the body is not a JSON array; send an array of items with a destination")
    return cast("list[object]", items)


def _item_headers(headers: object) -> Iterator[tuple[str, str]]:
    if headers is None:
        return
    if not isinstance(headers, dict):
        raise InputError("'headers' is not a JSON object; write the value of each header under its name")
    for name, value in cast("dict[str, object]", headers).items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, int | float):
            yield name, to_json(value).decode()
        elif value is not None:
            raise InputError(f"the value of the header {name[:60]!r} is not a text; write it in double quotes")


def _item_body(body: object) -> bytes:
    """The bytes to deliver; a body that is not a text is delivered as JSON, as official SDKs send objects."""
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else to_json(body)


def _item_queue(queue: object) -> str | None:
    if queue is not None and not isinstance(queue, str):
        raise InputError("'queue' is not a text; write the name of the queue in double quotes")
    return queue or None
