"""The entries of workflow runs: as they are delivered, read, and written for events."""

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, cast

from pydantic_core import from_json, to_json

from batchflow.core.call import Body
from batchflow.core.wire_runs import RunEntry
from batchflow.wire.headers import header_lists

_URL_PARTS = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def steps_array(entries: Sequence[RunEntry]) -> bytes:
    """The body of a delivery: these entries as a JSON array, byte for byte as `JSON.stringify` writes it."""
    return to_json([{"messageId": it.message, "body": _base64(it.body), "callType": "step"} for it in entries])


def step_of(entry: Body) -> dict[str, Any]:
    """The step that an entry records, as far as it can be read; empty for what is not a step."""
    if entry.base64:
        return {}
    try:
        step = from_json(entry.text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", step) if isinstance(step, dict) else {}


def _base64(body: Body) -> str:
    return body.text if body.base64 else b64encode(body.text.encode()).decode()


def event_tail(data: bytes) -> str:
    """The end of the entry of a wait that gets this data; see `AwaitEvent`."""
    return f',"out":"{b64encode(data).decode()}"}}' if data else "}"


def webhook_data(method: str, headers: Sequence[tuple[str, str]], body: bytes, url: str) -> bytes:
    """The data of the event of a webhook request, whose whole URL is `url`."""
    found = _URL_PARTS.fullmatch(url)
    assert found is not None, "a URL of the server itself"
    data: dict[str, Any] = {
        "method": method,
        "header": header_lists(headers),
        "proto": found[1].lower(),
        "host": found[2],
        "url": found[3],
    }
    if body:
        data["body"] = b64encode(body).decode()
    return to_json(data)
