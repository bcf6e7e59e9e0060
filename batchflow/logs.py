"""Where log lines go: through the app's structlog configuration, or, where there is none, to stderr from INFO on."""

import logging
import sys
from functools import cache
from typing import Any

import structlog


def logger() -> Any:
    """The logger of batchflow, as structlog is configured at present.

    An app that has not configured structlog gets its default look on stderr, without the DEBUG lines, of which there
    are several per item. `structlog.configure(…)` takes over whenever it is called.
    """
    return _configured() if structlog.is_configured() else _default()


@cache
def _configured() -> Any:
    return structlog.get_logger("batchflow")


def _default() -> Any:
    # Not kept: what stderr is may change, as it does under a test runner.
    quiet = structlog.make_filtering_bound_logger(logging.INFO)
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=quiet)
