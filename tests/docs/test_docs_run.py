"""What README and docs show is run as it stands, and prints what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.docs.comparing import json_difference, text_difference, without_log
from tests.docs.pages import ROOT, blocks, pages, read
from tests.docs.runner import Page, Wrong

SECONDS = 280
MARKED_AT_MOST = 18


def run(page: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHFLOW_", "APP_URL"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.runner", str(page)],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "BATCHFLOW_URL": "sqlite:///batchflow.db", "COLUMNS": "120"},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def written(folder: Path, *parts: str) -> Path:
    page = folder / "page.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def fenced(language: str, *lines: str, mark: str = "") -> str:
    return "\n".join([f"<!-- {mark} -->" if mark else "", f"```{language}", *lines, "```"])


@pytest.mark.parametrize("page", pages())
def test_docs_run_and_print_what_they_say(page: str, tmp_path: Path) -> None:
    """Every block of the page, in its order, in a folder of its own."""
    ended = run(ROOT / page, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_docs_leave_few_blocks_out() -> None:
    """A block that is not run says why, and there are few of them."""
    marked = [
        (page, block.marks["not run"])
        for page in pages()
        for block in blocks(read(page))
        if "not run" in block.marks and block.language not in {"", "mermaid"}
    ]
    assert all(len(reason) > 10 for _, reason in marked)
    assert len(marked) <= MARKED_AT_MOST, marked


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((fenced("python", "print(1)"), fenced("text", "2")), "page.md:7: something else is printed:"),
        ((fenced("python", "1 / 0"),), "ZeroDivisionError"),
        ((fenced("sh", "batchflow bake"),), "'python -m batchflow.cli bake' ended with 2"),
        ((fenced("sh", "rm -rf ."),), "nobody knows how to run 'rm'"),
        ((fenced("yaml", "a: 1"),), "nobody knows how to run 'yaml'"),
        ((fenced("text", "2"),), "follows no block that was run"),
    ],
)
async def test_docs_runner_finds_what_is_wrong(
    parts: Sequence[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that does not hold fails, and the line is named."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Wrong, match=re.escape(said)):
        await Page("page.md").run(blocks("\n".join(parts)))


def test_docs_runner_fails_as_a_program(tmp_path: Path) -> None:
    """Its exit code says that a page does not hold."""
    ended = run(written(tmp_path, fenced("python", "print(1)"), fenced("text", "2")), tmp_path)
    assert ended.returncode == 1
    assert "page.md:7: something else is printed:" in ended.stderr


def test_docs_runner_shares_names_and_awaits(tmp_path: Path) -> None:
    """Blocks of a page see each other's names, may await, and import the files the page has made."""
    page = written(
        tmp_path,
        fenced("python", "WHO = 'you'", mark="file: told.py"),
        fenced("python", "import asyncio", "from told import WHO"),
        fenced("python", "await asyncio.sleep(0)", "print('hello', WHO)"),
        fenced("text", "hello …"),
        fenced("python", "raise SystemExit", mark="not run: it would end the test"),
    )
    assert run(page, tmp_path).stderr == ""


def test_docs_runner_leaves_a_server_with_a_port_running(tmp_path: Path) -> None:
    """On another port than the page says, which is in use perhaps; variables and headers of a command count."""
    page = written(
        tmp_path,
        fenced(
            "python",
            "async def app(scope, receive, send):",
            "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})",
            "    await send({'type': 'http.response.body', 'body': dict(scope['headers'])[b'x-who']})",
            mark="file: serving.py",
        ),
        fenced("python", "print('QSTASH_TOKEN=ada')"),
        fenced("sh", "uvicorn serving:app --port 3000"),
        fenced("sh", 'curl -s -H "X-Who: $QSTASH_TOKEN" http://127.0.0.1:3000/'),
        fenced("text", "ada"),
        fenced("python", "print('http://127.0.0.1:3000')"),
        fenced("text", "http://127.0.0.1:3000"),
    )
    assert run(page, tmp_path).stderr == ""


def test_docs_answers_are_compared_around_the_ellipsis() -> None:
    """`…` stands for anything within a line, for lines where it stands alone, and for any JSON value."""
    assert text_difference("a … c\n…\nz", "a b c\nd\ne\nz\n") == ""
    assert text_difference("a\n…", "a\nb\nc") == ""
    assert text_difference("a … c", "a b d") != ""
    assert text_difference("a", "a\nb") != ""
    assert json_difference('{"id": "bat_…", "ms": …}', '{"id": "bat_1", "ms": 3}') == ""
    assert json_difference('{"id": 1}', '{"id": 2}') != ""
    assert json_difference('{"id": 1}', '{"id": 1, "more": 2}') != ""
    assert json_difference("{}", "no") == "this is no JSON: 'no'"


def test_docs_answers_leave_log_lines_out() -> None:
    """Log lines of a program and of the command are not compared."""
    text = "2026-11-21 02:24:48 [info     ] [greet:process] Starting\n12:00:01 [warning  ] [batchflow] Late\nhello\n"
    assert without_log(text) == "hello\n"
