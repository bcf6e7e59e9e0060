"""The routes of batchflow itself, which no function or workflow may take. Known without importing FastAPI."""

import re

from batchflow.errors import DuplicateNameError

DELIVERIES = "/deliveries"
"""The route to which an engine that calls the app delivers the messages of batches."""

RESERVED_POSTS = (
    DELIVERIES,
    *("/batches/{id}/pause", "/batches/{id}/resume", "/batches/{id}/cancel", "/batches/{id}/priority"),
    "/batches/{id}/approve",
    "/batches/{id}/retry",
    "/batches/{id}/failure-budget",
    *("/batches/pause", "/batches/resume", "/batches/cancel"),
    *("/dlq/resume", "/dlq/restart", "/dlq/callback", "/dlq/delete"),
    *("/schedules", "/schedules/{id}/pause", "/schedules/{id}/resume", "/schedules/{id}/trigger"),
    *(f"/flow/{{key}}/{command}" for command in ("pin", "unpin", "pause", "resume", "reset")),
    *("/runs/{id}/cancel", "/runs/cancel", "/events/{id:path}", "/webhooks/{token}"),
)
"""Those that take a POST, as functions and workflows do."""


def check_not_reserved(path: str) -> None:
    """Check the route of a function or a workflow.

    Raises:
        DuplicateNameError: the route is batchflow's own, so that no request would reach the function.
    """
    for route, pattern in _PATTERNS.items():
        if pattern.fullmatch(path):
            raise DuplicateNameError(
                f"a POST to '{path}' reaches batchflow's own route '{route}'; "
                f"give the function another route, or the workflow another name"
            )


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+(:path)?\}", lambda it: ".*" if it[1] else "[^/]+", path))


_PATTERNS = {path.replace(":path", ""): _pattern(path) for path in RESERVED_POSTS}
