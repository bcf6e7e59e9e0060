"""Retries that are refused."""

from typing import Any

import pytest

from batchflow import Batchflow
from batchflow.errors import InputError
from batchflow.testing import Environment
from tests.batch.charging_job import Job


@pytest.mark.parametrize(
    ("options", "field", "phrase"),
    [
        ({"failed": True, "missing": True}, "failed", "exclude each other"),
        ({"missing": True, "ids": ["i1"]}, "missing", "exclude each other"),
        ({"failed": False}, "failed", "selects nothing"),
        ({"failed": "yes"}, "failed", "True or False"),
        ({"missing": 1}, "missing", "True or False"),
        ({"force": True}, "force", "whatever the ledger holds"),
        ({"missing": True, "restart": True}, "restart", "from the beginning"),
        ({"ids": []}, "ids", "name one or more"),
        ({"ids": 7}, "ids", "list of ids"),
        ({"ids": "i1"}, "ids", "'i1'"),
        ({"ids": ["i1", "i1"]}, "ids", "twice"),
        ({"ids": ["z1", "z2", "z3", "z4", "i1"]}, "ids", "'z3' and 1 more"),
    ],
)
async def test_retry_refuses_what_it_cannot_do_in_one_sentence(options: Any, field: str, phrase: str) -> None:
    """Nothing has been started then."""
    flow = Batchflow("sqlite://")
    workflow = flow.add(Job())
    async with Environment(flow) as env:
        batch = await workflow.trigger()
        await env.drive()
        with pytest.raises(InputError, match=phrase) as raised:
            await batch.retry(**options)
        assert raised.value.field == field
        assert await batch.retries() == []
