"""Runs every measurement and prints the table: `python -m benchmarks [--write] [--repeat N]`."""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks import page
from benchmarks.scenarios import SCENARIOS

ONCE = ("million",)
"""Takes minutes, and has its reference within."""

COLUMNS = ("measured", "figure", "reference", "ratio")
Figures = dict[str, float]
Row = tuple[str, str, str, str]


def measure(name: str) -> Figures:
    """One run of a scenario, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scenarios", name]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"'{name}' failed:\n{answer.stderr}")
    found: Figures = json.loads(answer.stdout.splitlines()[-1])
    return found


def medians(runs: list[Figures]) -> Figures:
    """The median of each figure over several runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def rows(found: dict[str, Figures]) -> list[Row]:
    """Measured, its figure, the reference, the ratio to it."""
    return [
        *_embedded_rows(found),
        *_step_rows(found, found["latency"]["trigger_ms"]),
        *_claim_rows("embedded", found["claims_embedded"]),
        *_scale_rows(found),
        *_redis_rows(found),
        *_claim_rows("CPU of Redis", found["claims_on_redis"]),
        *_push_rows(found),
        ("idle worker", f"{found['idle']['core_percent']:.2f}% of a core", "1%", "-"),
    ]


def _embedded_rows(found: dict[str, Figures]) -> list[Row]:
    small, large, many = found["defaults_20k"], found["large_20k"], found["large_200k"]
    command, crew, first = found["command_20k"], found["crew_embedded"], found["latency"]
    groups, tenants = found["groups_10k"], found["tenants_20k"]
    dry, rate, big = found["dry_run"], found["rate"], found["large_results"]
    asyncio_ = found["references"]["asyncio_items_per_s"]
    return [
        ("asyncio alone: a task that waits three times", f"{asyncio_:,.0f} items/s", "-", "-"),
        *(
            _ratio(what, it["items_per_s"], "items/s", "SQLite alone", it["sqlite_items_per_s"])
            for what, it in (
                ("20,000 items with the defaults, pages of 50", small),
                ("20,000 items in pages of 1,000", large),
                ("… as `batchflow run` runs it", command),
            )
        ),
        _ratio("CPU per item with the defaults", small["cpu_us"], "us", "pages of 1,000", large["cpu_us"]),
        _ratio("two worker processes, the defaults", crew["two_per_s"], "items/s", "one", crew["one_per_s"]),
        _ratio("200,000 items in pages of 1,000", many["items_per_s"], "items/s", "20,000", large["items_per_s"]),
        _ratio("… CPU per item", many["cpu_us"], "us", "20,000", large["cpu_us"]),
        _ratio("… of the last of its 20,000s", many["last_cpu_us"], "us", "of the first", many["first_cpu_us"]),
        (
            "… peak memory",
            f"{many['peak_mib']:.0f} MiB",
            f"{large['peak_mib']:.0f} MiB at 20,000",
            f"{many['peak_mib'] - large['peak_mib']:+.0f} MiB",
        ),
        _ratio("600 results of 1 MB: peak memory", big["peak_mib"], "MiB", "before", big["idle_mib"]),
        _ratio(
            "10,000 items with `execute_many`, up to 50 a call",
            groups["items_per_s"],
            "items/s",
            "`execute`",
            groups["one_items_per_s"],
        ),
        _ratio("… CPU per item", groups["cpu_us"], "us", "`execute`", groups["one_cpu_us"]),
        _ratio("… calls", groups["calls"], "calls", "`execute`", groups["one_calls"]),
        _ratio(
            "20,000 items, one at a time of each of 2,000 tenants",
            tenants["items_per_s"],
            "items/s",
            "without `item_flow`",
            tenants["plain_items_per_s"],
        ),
        _ratio("… CPU per item", tenants["cpu_us"], "us", "without `item_flow`", tenants["plain_cpu_us"]),
        _ratio("dry run of 1,000,000", dry["ids_per_s"], "ids/s", "fetch alone", dry["fetch_only_ids_per_s"]),
        _ratio("trigger to first execute", first["first_ms"], "ms", "trigger (one commit)", first["trigger_ms"]),
        _ratio("rate of 200/s held", rate["per_s"], "starts/s", "the limit", 200),
        ("busiest second under that rate", f"{rate['busiest_second']:.0f} starts", "200", "-"),
    ]


def _claim_rows(where: str, it: Figures) -> list[Row]:
    return [
        _ratio(f"claim among 5,000 workflows, {where}", it["workflows_5000_us"], "us", "10", it["workflows_10_us"]),
        _ratio("… among 100,000 flow keys", it["keys_100000_us"], "us", "10", it["keys_10_us"]),
        _ratio("… beside a fifth that waits for retries", it["retries_us"], "us", "none", it["workflows_10_us"]),
    ]


def _scale_rows(found: dict[str, Figures]) -> list[Row]:
    million, waiting = found["million"], found["waiting_handles"]
    mib = f"{million['last_mib'] - million['second_mib']:+.0f} MiB"
    return [
        _ratio("1,000 handles wait: CPU per item", waiting["beside_cpu_us"], "us", "none", waiting["alone_cpu_us"]),
        _ratio(
            "1,000,000 items with the defaults: CPU per item of the last 100,000",
            million["last_cpu_us"],
            "us",
            "second 100,000",
            million["second_cpu_us"],
        ),
        ("… memory at its end", f"{million['last_mib']:.0f} MiB", f"{million['second_mib']:.0f} MiB at 200,000", mib),
        _ratio("… largest write-ahead log", million["wal_mib"], "MiB", "wanted", 16),
    ]


def _step_rows(found: dict[str, Figures], commit_ms: float) -> list[Row]:
    chain, runs, sleepers = found["sequential_steps"], found["parallel_runs"], found["sleeping_runs"]
    ten = chain["us_at_10"]
    return [
        _ratio("a step of a run of 10", ten, "us", "one commit", commit_ms * 1e3),
        _ratio("a step of a run of 100", chain["us_at_100"], "us", "of 10", ten),
        _ratio("a step of a run of 1,000", chain["us_at_1000"], "us", "of 10", ten),
        _ratio(
            "steps of 1,000 runs at once",
            runs["thousand_runs_steps_per_s"],
            "steps/s",
            "of one run",
            runs["one_run_steps_per_s"],
        ),
        _ratio("10,000 sleeping runs, the latest wakes after", sleepers["max_ms"], "ms", "wanted", 1_000),
        ("… half of them, 99% of them", f"{sleepers['p50_ms']:.0f} ms, {sleepers['p99_ms']:.0f} ms", "-", "-"),
    ]


def _redis_rows(found: dict[str, Figures]) -> list[Row]:
    small, large, crew = found["redis_defaults_20k"], found["redis_large_20k"], found["crew_on_redis"]
    queue, calls = found["redis_queue"], found["redis_calls"]
    made: list[Row] = []
    for what, it, embedded in (
        ("20,000 items on Redis with the defaults", small, found["defaults_20k"]),
        ("20,000 items on Redis in pages of 1,000", large, found["large_20k"]),
    ):
        made += [
            _ratio(what, it["items_per_s"], "items/s", "Redis alone", it["least_items_per_s"]),
            _ratio("… CPU of Redis per item", it["redis_cpu_us"], "us", "Redis alone", it["least_redis_cpu_us"]),
            _ratio("… CPU of the worker per item", it["cpu_us"], "us", "embedded", embedded["cpu_us"]),
        ]
    tenants = found["redis_tenants_20k"]
    return [
        *made,
        _ratio(
            "20,000 items on Redis, one at a time of each of 2,000 tenants",
            tenants["items_per_s"],
            "items/s",
            "without `item_flow`",
            tenants["plain_items_per_s"],
        ),
        _ratio(
            "… CPU of Redis per item",
            tenants["redis_cpu_us"],
            "us",
            "without `item_flow`",
            tenants["plain_redis_cpu_us"],
        ),
        _ratio("two worker processes, the defaults", crew["two_per_s"], "items/s", "one", crew["one_per_s"]),
        _ratio("memory of an item that waits in Redis", queue["bytes_per_item"], "bytes", "wanted", 400),
        _ratio("items put into Redis", queue["started_per_s"], "items/s", "wanted", 50_000),
        _ratio("FCALL of an empty group, of Redis", calls["function_us"], "us", "wanted", 10),
        _ratio("… EVALSHA of it, as on Redis 6.2", calls["script_us"], "us", "FCALL", calls["function_us"]),
        _ratio("… EVALSHA of `return 1`", calls["nothing_us"], "us", "FCALL", calls["function_us"]),
    ]


def _push_rows(found: dict[str, Figures]) -> list[Row]:
    push, server = found["push_6k"], found["server_6k"]
    return [
        _ratio("posts delivered to a sink", push["engine_per_s"], "/s", "raw signed aiohttp", push["raw_per_s"]),
        _ratio("… CPU of a delivery", push["engine_cpu_us"], "us", "raw signed aiohttp", push["raw_cpu_us"]),
        _ratio("… CPU of one without HTTP", push["bare_cpu_us"], "us", "with HTTP", push["engine_cpu_us"]),
        _ratio(
            "`batchflow server`: taken by `/v2/batch` and delivered",
            server["server_per_s"],
            "/s",
            "raw signed aiohttp",
            server["raw_per_s"],
        ),
        _ratio("… CPU of both", server["server_cpu_us"], "us", "raw signed aiohttp", server["raw_cpu_us"]),
        _ratio("… taken only", server["ingest_per_s"], "/s", "raw inserts", server["inserts_per_s"]),
        _ratio("… CPU of taking one", server["ingest_cpu_us"], "us", "of both", server["server_cpu_us"]),
        _ratio("a row of the log of posts", found["post_log"]["row_us"], "us", "wanted", 10),
    ]


def _ratio(what: str, figure: float, unit: str, reference: str, value: float) -> Row:
    shown = f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"
    return (
        what,
        f"{shown} {unit}",
        f"{reference}: {value:,.0f}" if value >= 100 else f"{reference}: {value:.1f}",
        (f"{figure / value:.2f}"),
    )


def conditions() -> str:
    """Describe the machine and the options of the run."""
    return (
        f"{page.machine()}, SQLite {sqlite3.sqlite_version}; journal_mode=WAL, synchronous=FULL, up to 256 runs under "
        "way, group commit (a transaction holds what was asked for while the one before it was written), log level INFO"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each measurement; medians are shown")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args()
    names = tuple(SCENARIOS)
    runs: dict[str, list[Figures]] = {name: [] for name in names}
    console = Console()
    # Round by round, so that a figure and its reference meet the same moods of the machine.
    for turn in range(given.repeat):
        for name in names if turn == 0 else (name for name in names if name not in ONCE):
            console.print(f"[dim]{turn + 1}/{given.repeat} {name}[/dim]")
            runs[name].append(measure(name))
    found = rows({name: medians(several) for name, several in runs.items()})
    table = Table(*COLUMNS, title="batchflow, one process")
    for row in found:
        table.add_row(*row)
    console.print(table)
    console.print(conditions())
    if given.write:
        heading = f"`python -m benchmarks --repeat {given.repeat} --write` on {conditions()}."
        page.write("measured", heading, COLUMNS, list[tuple[str, ...]](found))


if __name__ == "__main__":
    main()
