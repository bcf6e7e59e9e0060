"""A longer soak: `python -m tests.chaos --seeds 20 [--first 1] [--items 10000]`, one run for each seed."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.runs import played


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def soak(seeds: range, items: int) -> int:
    """How many runs went wrong."""
    wrong = 0
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        try:
            outcome = await played(seed, items, folder)
        except AssertionError as error:
            wrong += 1
            say("\n  ".join([f"seed {seed}: {error}", *getattr(error, "__notes__", ())]))
            continue
        say("\n".join(outcome.lines()))
        if outcome.problems:
            wrong += 1
            say(f"  traces and logs in {folder}")
        else:
            shutil.rmtree(folder)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many runs")
    parser.add_argument("--first", type=int, default=1, help="the seed of the first one")
    parser.add_argument("--items", type=int, default=10_000, help="items of each run")
    given = parser.parse_args()
    wrong = asyncio.run(soak(range(given.first, given.first + given.seeds), given.items))
    say(f"{given.seeds - wrong} of {given.seeds} runs went well")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
