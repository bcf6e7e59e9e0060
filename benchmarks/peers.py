"""batchflow beside other job queues, on a Redis server of its own: `python -m benchmarks.peers SCRIPTS [--write]`.

SCRIPTS is the folder of `run_peers.py`, which measures each queue in a virtual environment of its own under
$BENCH_HOME. batchflow is put among them in the same form: one item is three durable steps with pydantic models in and
out, where the others run an empty function.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import page

ROOT = Path(__file__).parents[1]
NAME = "batchflow"
AT_LEAST_ONCE = ("saq", "arq", "docket", "streaq", "taskiq-stream", "dramatiq", "celery-prefork")
PEERS = (*AT_LEAST_ONCE, "dbos-sqlite-wal-3steps")
COLUMNS = (
    *("", "enqueue/s", "1 worker, items/s", "ratio", "2 workers", "2 : 1", "with AOF"),
    *("worker CPU us", "Redis CPU us", "socket reads"),
)
Run = dict[str, Any]


def load(scripts: Path) -> ModuleType:
    """`run_peers.py`, with batchflow among its peers."""
    spec = importlib.util.spec_from_file_location("run_peers", scripts / "run_peers.py")
    if spec is None or spec.loader is None or not (scripts / "run_peers.py").exists():
        raise SystemExit(f"there is no run_peers.py in {scripts}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    here = os.path.relpath(Path(__file__).with_name("peer"), scripts / "peers")
    paths = os.pathsep.join([str(scripts / "peers"), str(ROOT)])
    peers: dict[str, Any] = module.P
    peers[NAME] = {
        "venv": NAME,
        "s": here,
        "env": {"PYTHONPATH": paths},
        "pend": ("ZCARD", "bf:{batchflow}:bo"),
    }
    home = Path(module.B)
    home.mkdir(parents=True, exist_ok=True)
    mine = home / f"venv-{NAME}"
    mine.unlink(missing_ok=True)
    mine.symlink_to(sys.prefix)
    return module


def rows(runs: list[Run]) -> list[tuple[str, ...]]:
    """A row for each peer, and batchflow's first; ratios to the fastest that delivers at least once."""

    def median(name: str, key: str, workers: int = 1, *, aof: bool = False) -> float | None:
        found = [run for run in runs if (run["peer"], run["workers"], bool(run["aof"])) == (name, workers, aof)]
        part, _, field = key.rpartition(".")
        figures = [float((run[part] if part else run)[field]) for run in found]
        return statistics.median(figures) if figures else None

    names = sorted(
        {str(run["peer"]) for run in runs}, key=lambda name: (name != NAME, -(median(name, "drain_rate") or 0))
    )
    best = max(median(name, "drain_rate") or 0 for name in names if name in AT_LEAST_ONCE)
    found: list[tuple[str, ...]] = []
    for name in names:
        one, two = median(name, "drain_rate") or 0, median(name, "drain_rate", 2)
        on_disk = None if name.startswith("dbos") else median(name, "drain_rate", aof=True)
        redis = None if name.startswith("dbos") else median(name, "drain.redis_cpu_us_per_item")
        reads = None if name.startswith("dbos") else median(name, "drain.reads_per_item")
        found.append(
            (
                f"**{name}**, 3 durable steps" if name == NAME else name.replace("-wal-3steps", ", 3 durable steps"),
                _figure(median(name, "enqueue_rate")),
                _figure(one),
                f"{one / best:.2f}",
                _figure(two),
                "-" if two is None else f"{two / one:.2f}",
                "-" if on_disk is None else f"{on_disk / one:.2f}",
                _figure(median(name, "worker_cpu_us_per_item")),
                _figure(redis),
                "-" if reads is None else f"{reads:.2f}",
            )
        )
    return found


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("scripts", type=Path, help="the folder of run_peers.py")
    parser.add_argument("--n", type=int, default=20_000, help="items")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; medians are shown")
    parser.add_argument("--peers", default=",".join(PEERS), help="who to put batchflow beside")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args()
    module = load(given.scripts.resolve())
    out = Path(module.B) / "batchflow.json"
    sys.argv = ["run_peers.py", "--n", str(given.n), "--repeat", str(given.repeat), "--refs", "0", "--out", str(out)]
    sys.argv += ["--peers", f"{NAME},{given.peers}"]
    module.main()
    answer = json.loads(out.read_text())
    found = rows(answer["runs"])
    table = Table(*COLUMNS, title=f"{given.n:,} items, Redis {answer['redis']}")
    for row in found:
        table.add_row(*row)
    Console(width=max(Console().width, 140)).print(table)
    for error in answer["errors"]:
        print(error, file=sys.stderr)
    if given.write:
        heading = (
            f"`python -m benchmarks.peers SCRIPTS --n {given.n} --repeat {given.repeat} --write` on {page.machine()}, "
            f"Redis {answer['redis']}."
        )
        page.write("peers", heading, COLUMNS, found)


if __name__ == "__main__":
    main()
