"""One of the processes of `batchflow worker --processes N`: `python -m batchflow.cli.supervised MODULE:ATTR`."""

import sys

from batchflow.cli.command import leave, told
from batchflow.cli.loop import run_to_the_end
from batchflow.cli.output import Output
from batchflow.cli.supervisor import stop_with_parent
from batchflow.cli.target import load_flow
from batchflow.cli.worker import work


async def _work(target: str) -> int:
    flow = load_flow(target)
    stop_with_parent()
    # What there is to say, the supervisor says.
    return await work(flow, Output(quiet=True))


if __name__ == "__main__":
    leave(told(lambda: run_to_the_end(_work(sys.argv[1]))))
