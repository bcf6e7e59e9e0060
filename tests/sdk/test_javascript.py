"""The official JavaScript SDKs: programs on node, which use their verbs and check what comes back."""

import os
import subprocess

import pytest

from tests.sdk.javascript import FOLDER
from tests.sdk.stage import Stage


@pytest.mark.parametrize("program", ["messages", "settings", "dlq", "logs", "workflows"])
def test_the_javascript_sdks_work_unmodified(node: str, stage: Stage, program: str) -> None:
    """Each program asserts what it promises, and prints which promise does not hold."""
    ran = subprocess.run(
        [node, "--test-reporter=tap", f"{program}.mjs"],
        cwd=FOLDER,
        env={**os.environ, **stage.server.add_tenant(stage.name(program))},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# pass 0" not in ran.stdout
    assert "# skipped 0" in ran.stdout
