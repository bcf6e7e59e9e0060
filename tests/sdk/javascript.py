"""The official JavaScript SDKs, as they were installed from their registry."""

import os
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "js"
REQUIRED = "BATCHFLOW_REQUIRE_NODE"


def find_node() -> str:
    """The program `node`; without it or the SDK the test is left out, which is a failure where they are required."""
    path = shutil.which("node")
    if path is None:
        missing = "no node on PATH: what needs the JavaScript SDK was left out"
    elif not all((FOLDER / "node_modules" / "@upstash" / name).is_dir() for name in ("qstash", "workflow")):
        missing = "no JavaScript SDKs (npm install --prefix tests/sdk/js): what needs it was left out"
    else:
        return path
    if os.environ.get("CI") or os.environ.get(REQUIRED) == "1":
        pytest.fail(missing)
    pytest.skip(missing)
