"""The demo on QStash: all its processes, and the end of them."""

import re
import socket
import subprocess
import sys

from tests.house.sources import ROOT


def test_the_demo_on_qstash_runs_a_batch_and_leaves_nothing_behind() -> None:
    """A server of our own, a store and an app without a worker; all subscribers get their texts."""
    ended = subprocess.run(
        [sys.executable, "-m", "examples.welcome_placeholder.demo_qstash"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert "400 of 400 done, 0 failed" in ended.stdout
    assert "The batch has completed" in ended.stdout
    ports = {int(it) for it in re.findall(r"(?:127\.0\.0\.1:|port )(\d+)", ended.stdout)}
    assert len(ports) in (2, 3)
    for port in ports:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
