"""The items of a batch: an array of publish requests, of which all are accepted or none."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

from pydantic_core import from_json, to_json
from starlette.responses import Response
from starlette.types import Receive, Scope

from batchflow.errors import InputError
from batchflow.server.answers import error_list, error_status
from batchflow.server.raw_request import caller_ip, read_body
from batchflow.wire.publish import PublishRequest, parse_publish

_ITEMS_AT_ONCE = 100
# Other requests are answered in between.

_Planned = TypeVar("_Planned")


async def plan_items(
    scope: Scope, receive: Receive, plan: Callable[[object], Awaitable[_Planned]]
) -> list[_Planned] | Response:
    """Plan each item of a request; returns the plans, or the answer that names all items that are wrong.

    Raises:
        InputError: the body is not a JSON array.
    """
    plans: list[_Planned] = []
    refused: list[tuple[int, str]] = []
    for number, item in enumerate(_read_items(await read_body(scope, receive))):
        try:
            plans.append(await plan(item))
        except InputError as error:
            refused.append((error_status(error), f"item {number}: {error}"))
        if number % _ITEMS_AT_ONCE == _ITEMS_AT_ONCE - 1:
            await asyncio.sleep(0)
    if not refused:
        return plans
    statuses = {status for status, _ in refused}
    return error_list([text for _, text in refused], statuses.pop() if len(statuses) == 1 else 400)


def item_headers(item: object) -> list[tuple[str, str]]:
    """The headers of an item.

    Raises:
        InputError: it is not an object with a destination, or its headers are not texts.
    """
    headers = _fields(item).get("headers")
    return [] if headers is None else list(_header_pairs(headers))


def read_item(scope: Scope, item: object, headers: list[tuple[str, str]], now: int) -> PublishRequest:
    """The publish request of an item with these headers.

    Raises:
        InputError: it is not valid.
    """
    fields = _fields(item)
    request = parse_publish(
        fields["destination"],
        headers,
        _item_body(fields.get("body")),
        tenant=scope["batchflow.tenant"],
        now=now,
        queue=_item_queue(fields.get("queue")),
        caller_ip=caller_ip(scope),
    )
    if request.cron is not None:
        raise InputError("'upstash-cron' makes a schedule; POST it to /v2/schedules", field="upstash-cron")
    return request


def _read_items(body: bytes) -> list[object]:
    try:
        items = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); send an array of items with a destination") from error
    if not isinstance(items, list):
        raise InputError("the body is not a JSON array; send an array of items with a destination")
    return cast("list[object]", items)


def _fields(item: object) -> dict[str, Any]:
    match item:
        case {"destination": str()}:
            return cast("dict[str, Any]", item)
        case _:
            raise InputError("is not a JSON object with a destination, such as https://example.com")


def _header_pairs(headers: object) -> Iterator[tuple[str, str]]:
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
