"""Says at the end what the runs were: the seed, the faults, what they cost."""

from typing import Any

from tests.chaos.test_chaos import TOLD


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The lines that a run has told."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = [line for report in reports for name, line in report.user_properties if name == TOLD]
    if lines:
        terminalreporter.section("chaos")
        for line in lines:
            terminalreporter.write_line(line)
