"""The app that is measured."""

from pathlib import Path

import structlog

from batchflow import Batchflow


def quiet_app(folder: Path) -> Batchflow:
    """As an app is that configures nothing else: lines from INFO on, written to where nobody looks."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory((folder / "log").open("w")),
    )
    return Batchflow(f"sqlite:///{folder / 'benchmark.db'}")
