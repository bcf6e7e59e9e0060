"""A process of `batchflow worker --processes N`: `python -m batchflow.cli.worker_process MODULE:ATTR`."""

import sys

from batchflow.cli.output import Output
from batchflow.cli.process import exit_process, run_and_report, run_event_loop
from batchflow.cli.target import load_flow
from batchflow.cli.worker import run_worker, stop_with_parent


async def _run_supervised(target: str) -> int:
    flow = load_flow(target)
    stop_with_parent()
    # The supervisor prints the messages.
    return await run_worker(flow, Output(quiet=True))


if __name__ == "__main__":
    exit_process(run_and_report(lambda: run_event_loop(_run_supervised(sys.argv[1]))))
