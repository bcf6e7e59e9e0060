"""The export of a batch: a file of items that other programs read, and its manifest."""

import csv
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, NonRetryable, NoParams, Page, RetryPolicy, Secret
from batchflow.batch.export import FIELDS, Manifest
from batchflow.batch.handle import BatchHandle
from batchflow.errors import InputError
from batchflow.testing import Environment

KEYS = ["ada", "a,b", 'quo"te', "new\nline", "ünï", "bad"]


class Account(BaseModel):
    name: str
    key: Annotated[str, Secret] = "hunter2"


class Accounts(BatchWorkflow[NoParams, str, Account]):
    retry = RetryPolicy(retries=0)
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=KEYS)

    async def execute(self, item_id: str) -> Account:
        if item_id == "bad":
            raise NonRetryable("it is bad, and says so\non two lines")
        return Account(name=item_id.upper())


@pytest.fixture
async def batch() -> AsyncIterator[BatchHandle[Any]]:
    """A batch that has ended; one of its items has failed."""
    flow = Batchflow("sqlite://")
    accounts = flow.add(Accounts())
    async with Environment(flow) as env:
        handle = await accounts.trigger()
        await env.drive()
        yield handle


def check(manifest: Manifest, folder: Path) -> bytes:
    """The file has the size and the hash that its manifest says."""
    content = (folder / manifest.file).read_bytes()
    assert (manifest.size, manifest.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert json.loads((folder / "manifest.json").read_text("utf-8")) == manifest.model_dump(mode="json", by_alias=True)
    return content


async def test_export_writes_a_line_of_json_for_each_item(batch: BatchHandle[Any], tmp_path: Path) -> None:
    """Secrets are masked; errors are one line."""
    manifest = await batch.export(tmp_path / "deep" / "export")
    rows = [json.loads(line) for line in check(manifest, tmp_path / "deep" / "export").splitlines()]
    assert [row["key"] for row in rows] == KEYS
    assert all(tuple(row) == FIELDS for row in rows)
    assert rows[0]["result"] == {"name": "ADA", "key": "**********"}
    assert (rows[0]["outcome"], rows[0]["attempts"], rows[0]["error"]) == ("succeeded", 1, None)
    assert (rows[5]["outcome"], rows[5]["result"]) == ("failed", None)
    assert rows[5]["error"].startswith("NonRetryable: it is bad")
    assert (manifest.rows, dict(manifest.outcomes), manifest.is_final) == (6, {"failed": 1, "succeeded": 5}, True)
    assert manifest.counts["succeeded"] == 5


async def test_export_writes_csv_that_is_read_back(batch: BatchHandle[Any], tmp_path: Path) -> None:
    """Keys with commas, quotes and line ends, and results as JSON texts."""
    manifest = await batch.export(tmp_path, "csv")
    rows = list(csv.DictReader(io.StringIO(check(manifest, tmp_path).decode(), newline="")))
    assert [row["key"] for row in rows] == KEYS
    assert tuple(rows[0]) == FIELDS
    assert json.loads(rows[1]["result"])["name"] == "A,B"
    assert (rows[5]["result"], rows[5]["outcome"]) == ("", "failed")


async def test_export_of_an_ended_batch_is_the_same_each_time(batch: BatchHandle[Any], tmp_path: Path) -> None:
    """Also in pages of one item; one state alone has only its items."""
    one, two = await batch.export(tmp_path / "1"), await batch.export(tmp_path / "2")
    assert one.sha256 == two.sha256
    failed = await batch.export(tmp_path / "3", state="failed")
    assert (failed.rows, failed.state) == (1, "failed")


async def test_export_is_refused_where_it_would_overwrite(batch: BatchHandle[Any], tmp_path: Path) -> None:
    """Or where there is no folder, or no such format."""
    await batch.export(tmp_path)
    with pytest.raises(InputError, match=r"items\.jsonl' exists already"):
        await batch.export(tmp_path)
    with pytest.raises(InputError, match=r"manifest\.json' exists already"):
        await batch.export(tmp_path, "csv")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        await batch.export(tmp_path / "file")
    wrong: Any = "xml"
    with pytest.raises(InputError, match="'format' cannot be 'xml'; write jsonl or csv"):
        await batch.export(tmp_path / "new", wrong)
