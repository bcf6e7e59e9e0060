"""The routes that are batchflow's own, known before a router is there: it imports FastAPI, and this does not."""

import re

from batchflow.errors import DuplicateNameError

RESERVED_POSTS = ("/batches/{id}/cancel", "/runs/{id}/cancel", "/runs/cancel", "/events/{id:path}", "/webhooks/{token}")
"""Those that take a POST."""


def check_not_reserved(path: str) -> None:
    """Check the route of a function or a workflow.

    Raises:
        DuplicateNameError: it is one of batchflow's own, and requests would never come to it.
    """
    for route, pattern in _PATTERNS.items():
        if pattern.fullmatch(path):
            raise DuplicateNameError(
                f"a POST to '{path}' is one to batchflow's own route '{route}'; "
                f"give the function another route, or the workflow another name"
            )


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+(:path)?\}", lambda it: ".*" if it[1] else "[^/]+", path))


_PATTERNS = {path.replace(":path", ""): _pattern(path) for path in RESERVED_POSTS}
