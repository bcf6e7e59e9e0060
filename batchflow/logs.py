"""Where log lines go: through the app's structlog configuration, or, where there is none, structlog's own at INFO."""

import logging
from functools import cache
from typing import Any

import structlog


def logger() -> Any:
    """The logger of batchflow, as structlog is configured at present.

    An app that has not configured structlog gets its default look without the DEBUG lines, of which there are
    several per item. `structlog.configure(…)` takes over whenever it is called.
    """
    return _configured() if structlog.is_configured() else _default()


@cache
def _configured() -> Any:
    return structlog.get_logger("batchflow")


@cache
def _default() -> Any:
    return structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
