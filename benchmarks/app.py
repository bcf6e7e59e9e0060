"""The app that is measured."""

from pathlib import Path

import structlog

from batchflow import Batchflow


def quiet_logs(folder: Path) -> None:
    """As in an app that configures nothing: lines from INFO on; written to where nobody looks."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory((folder / "log").open("w")),
    )


def quiet_app(folder: Path) -> Batchflow:
    """An embedded app with the options a new one has."""
    quiet_logs(folder)
    return Batchflow(f"sqlite:///{folder / 'benchmark.db'}")
