"""`batchflow batches export`, and `--ids-from`, which reads what it wrote."""

import json
from pathlib import Path

import pytest

from batchflow.cli.ids_file import read_ids
from batchflow.errors import InputError
from tests.cli.command_line import CommandLine


def test_export_to_stdout_is_the_lines_alone(command: CommandLine) -> None:
    """So that a pipe can read them."""
    id = command("run", command.target, "--limit", "3", "--json").document["batchId"]
    answer = command("batches", "export", id)
    assert [json.loads(line)["key"] for line in answer.out.splitlines()] == ["user-000", "user-001", "user-002"]
    lines = command("batches", "export", id, "--format", "csv").out.splitlines()
    assert lines[0] == "key,number,outcome,result,error,attempts,endedAt"
    assert lines[1].startswith("user-000,0,succeeded,")


def test_failed_items_of_an_export_run_again(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its manifest, or from its file."""
    monkeypatch.setenv("FAIL", "user-003,user-007")
    id = command("run", command.target, "--json").document["batchId"]
    answer = command("batches", "export", id, "failed", "--state", "failed")
    assert answer.out == f"Wrote 2 items of batch {id} to failed/items.jsonl, with manifest.json\n"
    assert command("batches", "export", id, "more", "--state", "failed", "--json").document["rows"] == 2
    monkeypatch.delenv("FAIL")
    for source in ("failed/manifest.json", "failed/items.jsonl", "more/items.jsonl:key"):
        counts = command("run", command.target, "--ids-from", source, "--json").document["counts"]
        assert (counts["eligible"], counts["succeeded"]) == (2, 2)


def test_export_refuses_what_it_cannot_do(command: CommandLine) -> None:
    """In one sentence, before anything is written."""
    id = command("run", command.target, "--limit", "1", "--json").document["batchId"]
    assert command("batches", "export", id, "--format", "xml").is_usage_error("'--format' cannot be 'xml'")
    assert command("batches", "export", id, "--state", "done").is_usage_error("'--state' cannot be 'done'")
    assert command("batches", "export", id, "--json").is_usage_error("name a FOLDER")
    assert command("batches", "export", "bat_x").is_usage_error("there is no batch 'bat_x' here")
    answer = command("run", command.target, "--ids", "a", "--ids-from", "b")
    assert answer.is_usage_error("--ids and --ids-from exclude each other")


FILES = {
    "users.csv:user id": 'name,user id\nAda,u1\n\n"G, H",u2\n',
    "one.csv": "\ufeffwhatever\nu1\nu2\n",
    "keys.csv": "number,key\n0,u1\n1,u2\n",
    "ids.jsonl": '"u1"\n\n"u2"\n',
    "rows.ndjson:id": '{"id": "u1", "key": 7}\n{"id": "u2"}\n',
    "ids.txt": "u1\n\n  u2  \n",
    "a:b.txt": "u1\nu2",
}


@pytest.mark.parametrize("source", FILES)
def test_ids_are_read_from_a_file(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CSV and JSON lines with a column that is named, or is the only one, or is `key`; or a line for each."""
    monkeypatch.chdir(tmp_path)
    name = source if source.startswith("a:") else source.partition(":")[0]
    Path(name).write_text(FILES[source], encoding="utf-8")
    assert read_ids(source) == ["u1", "u2"]


def test_ids_are_read_beside_results_of_any_size(tmp_path: Path) -> None:
    """A value may have BATCHFLOW_MAX_VALUE bytes, which is more than csv takes by itself."""
    (tmp_path / "items.csv").write_text(f"key,result\nu1,{'x' * 1_000_000}\n")
    assert read_ids(str(tmp_path / "items.csv")) == ["u1"]


WRONG = {
    "users.csv": ("name,id\nAda,u1\n", "has no column 'key'; write one as users.csv:COLUMN: name, id"),
    "users.csv:mail": ("name,id\nAda,u1\n", "has no column 'mail'"),
    "gap.csv:id": ("name,id\nAda,u1\nGrace\n", "line 3 of 'gap.csv' has no 'id'"),
    "empty.csv": ("", "has no column 'key'; write one as empty.csv:COLUMN: none"),
    "bad.jsonl": ('"u1"\n{', "line 2 of 'bad.jsonl' is not JSON"),
    "null.jsonl": ("null\n", "line 1 of 'null.jsonl' has no id"),
    "ids.txt:id": ("u1\n", "'ids.txt' has no columns"),
    "half.jsonl": ('{"key": "u1"}\n{"kee": "u2"}\n', "line 2 of 'half.jsonl' has no 'key'"),
    "open.csv": ('key\nu1\n"u2\n', "line 3 of 'open.csv' is not CSV"),
    "lines.csv:id": ('name,id\n"A\nB",u1\nGrace\n', "line 4 of 'lines.csv' has no 'id'"),
    "semi.csv": ("id;name\n1;Ada\n", "has one column, 'id;name'; separate columns by commas"),
    "none.csv": ("key\n", "'none.csv' has no ids"),
    "none.txt": ("\n \n", "'none.txt' has no ids"),
    "twice.txt": ("u1\nu2\nu1\n", "'twice.txt' has the id 'u1' twice"),
    "other.json": ("[]", "is not the manifest of an export"),
    "gone.csv": (None, "'--ids-from' cannot read 'gone.csv': No such file"),
}


@pytest.mark.parametrize("source", WRONG)
def test_a_file_without_ids_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the file, and the line where there is one."""
    monkeypatch.chdir(tmp_path)
    content, phrase = WRONG[source]
    if content is not None:
        Path(source.partition(":")[0]).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_ids(source)
    assert phrase in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """As a spreadsheet is not."""
    (tmp_path / "ids.csv").write_bytes(b"key\n\xff\xfe\n")
    with pytest.raises(InputError, match="it is not text in UTF-8"):
        read_ids(str(tmp_path / "ids.csv"))
