"""The routes that are batchflow's own."""

import re

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.errors import DuplicateNameError


@pytest.mark.parametrize("path", ["/events/order", "/runs/cancel", "/batches/mine/cancel", "/webhooks/mine"])
def test_a_function_cannot_take_a_route_of_batchflow_itself(path: str) -> None:
    """It would never be reached; whether the router is there before or after."""
    told = re.escape(f"a POST to '{path}' is one to batchflow's own route")

    async def mine(ctx: WorkflowContext[None]) -> None: ...

    early = Batchflow("sqlite://")
    assert early.router is not None
    with pytest.raises(DuplicateNameError, match=told):
        early.serve(path)(mine)
    late = Batchflow("sqlite://")
    late.serve(path)(mine)
    with pytest.raises(DuplicateNameError, match=told):
        _ = late.router
