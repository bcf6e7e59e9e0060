"""The public types, as pyright sees them: what is inferred, and what is refused.

A case is a file of ordinary code. Where a line must be refused, the line above it says with which message:

    # expect-error: "is not assignable to"
    count: int = "three"

Several such comments in a row expect several errors of the line that follows. Everything else must be clean.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

import pytest

HERE = Path(__file__).parent
CASES = sorted(HERE.joinpath("cases").glob("*.py"))
EXPECTED = re.compile(r'^\s*# expect-error: "(?P<message>.*)"$')


class _Position(TypedDict):
    line: int


class _Range(TypedDict):
    start: _Position


class _Diagnostic(TypedDict):
    file: str
    severity: str
    message: str
    range: _Range


class _Summary(TypedDict):
    filesAnalyzed: int


class _Report(TypedDict):
    generalDiagnostics: list[_Diagnostic]
    summary: _Summary


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """An error on a line, counted from 1."""

    line: int
    message: str


def expectations(text: str) -> list[Refusal]:
    """What the comments of a case ask for; the message is a regular expression."""
    expected: list[Refusal] = []
    waiting: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if found := EXPECTED.match(line):
            waiting.append(found["message"])
        else:
            expected += [Refusal(number, message) for message in waiting]
            waiting.clear()
    if waiting:
        raise ValueError(f"nothing follows the last expect-error: {waiting}")
    return expected


def difference(expected: list[Refusal], found: list[Refusal]) -> list[str]:
    """What was expected in vain, and what nobody expected."""
    unexpected = sorted(found)
    missing: list[str] = []
    for refusal in expected:
        match = next(
            (it for it in unexpected if it.line == refusal.line and re.search(refusal.message, it.message)), None
        )
        if match is None:
            missing.append(f"line {refusal.line}: expected an error like {refusal.message!r}")
        else:
            unexpected.remove(match)
    return missing + [f"line {it.line}: unexpected: {it.message}" for it in unexpected]


@cache
def refusals() -> dict[Path, list[Refusal]]:
    """One run of pyright over all cases."""
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(HERE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode not in {0, 1}:
        raise RuntimeError(f"pyright did not run: {run.stdout}{run.stderr}")
    report: _Report = json.loads(run.stdout)
    if report["summary"]["filesAnalyzed"] != len(CASES):
        raise RuntimeError(f"pyright looked at {report['summary']['filesAnalyzed']} of {len(CASES)} cases")
    by_file: defaultdict[Path, list[Refusal]] = defaultdict(list)
    for it in report["generalDiagnostics"]:
        if it["severity"] != "information":
            by_file[Path(it["file"]).resolve()].append(Refusal(it["range"]["start"]["line"] + 1, it["message"]))
    return by_file


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_case_is_typed_as_its_comments_say(case: Path) -> None:
    """Each expected error occurs on its line, and no other error anywhere."""
    found = refusals().get(case.resolve(), [])
    assert difference(expectations(case.read_text(encoding="utf-8")), found) == []


def test_there_are_cases() -> None:
    """An empty folder would pass unseen."""
    assert CASES


def test_expectations_belong_to_the_next_line_of_code() -> None:
    """Comments in a row all speak of the line below them."""
    text = '# expect-error: "one"\n# expect-error: "two"\nx = 1\ny = 2\n'
    assert expectations(text) == [Refusal(3, "one"), Refusal(3, "two")]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([Refusal(3, "one thing")], []),
        ([], ["line 3: expected an error like 'one'"]),
        ([Refusal(4, "one thing")], ["line 3: expected an error like 'one'", "line 4: unexpected: one thing"]),
        ([Refusal(3, "two things")], ["line 3: expected an error like 'one'", "line 3: unexpected: two things"]),
        ([Refusal(3, "one"), Refusal(3, "one more")], ["line 3: unexpected: one more"]),
    ],
)
def test_difference_tells_missing_from_unexpected(found: list[Refusal], message: list[str]) -> None:
    """An error on another line, of another kind, or once too often is not the expected one."""
    assert difference([Refusal(3, "one")], found) == message
