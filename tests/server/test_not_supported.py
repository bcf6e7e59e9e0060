"""Workflow runs are refused with a sentence, not passed over."""

import pytest
from httpx import AsyncClient


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/workflows/events"),
        ("POST", "/v2/workflows/dlq/resume/1-0"),
    ],
)
async def test_workflow_runs_are_refused(http: AsyncClient, method: str, path: str) -> None:
    """Not with 400: the SDKs would take their run for one that was cancelled."""
    response = await http.request(method, path)
    assert response.status_code == 501
    assert response.json()["error"].startswith("workflow runs are not served yet")
