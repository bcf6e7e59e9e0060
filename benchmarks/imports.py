"""Measures imports against `import pydantic, asyncio`, in new processes by turns: `python -m benchmarks.imports`."""

import argparse
import os
import subprocess
import sys
import time

BASE = "import pydantic, asyncio"
PROGRAMS = {
    BASE: ["-c", BASE],
    "import batchflow": ["-c", "import batchflow"],
    "batchflow --help": ["-m", "batchflow.cli", "--help"],
}
LIMIT = 2.5
"""The import of batchflow may take this many times the import of pydantic and asyncio."""


# Compiled modules are kept, as in an installed package.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(arguments: list[str]) -> float:
    """The time of one process, from its start to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - began


def measure(repeat: int) -> dict[str, float]:
    """The shortest time of each program; all take turns, so that a busy machine slows down all of them."""
    for arguments in PROGRAMS.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(repeat):
        for name, arguments in PROGRAMS.items():
            times[name].append(seconds(arguments))
    return {name: min(found) for name, found in times.items()}


def main() -> None:
    """Print each program's time and its ratio to the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="runs of each program")
    found = measure(parser.parse_args().repeat)
    for name, took in found.items():
        print(f"{name:<26} {took * 1_000:6.0f} ms  {took / found[BASE]:.2f}")
    ratio = found["import batchflow"] / found[BASE]
    print(f"'import batchflow' takes {ratio:.2f} times '{BASE}'; the aim is at most {LIMIT}")


if __name__ == "__main__":
    main()
