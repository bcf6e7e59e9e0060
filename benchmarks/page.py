"""The tables in docs/benchmarks.md: each stands between its own marks."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def machine() -> str:
    """Describe the machine."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} x {processor}, Python {platform.python_version()}"


def write(name: str, heading: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Put a table, with the line above it that says how it was made, between the marks of `name`."""
    lines = [heading, "", f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = PAGE.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{PAGE.name} has no place for '{name}': {begin.strip()} … {end}")
    text = "\n".join(lines)
    PAGE.write_text(f"{head}{begin}\n{text}\n\n{end}{tail}")
