"""The routers of the REST API beside publish, enqueue and batch, in the order of its reference."""

from collections.abc import Sequence

from fastapi import APIRouter

from batchflow.server import (
    dlq,
    flow_control,
    groups,
    keys,
    logs,
    messages,
    not_supported,
    queues,
    runs,
    schedules,
    waits,
)

ROUTERS: Sequence[APIRouter] = (
    messages.router,
    queues.router,
    schedules.router,
    groups.router,
    dlq.router,
    logs.router,
    keys.router,
    flow_control.router,
    runs.router,
    waits.router,
    not_supported.router,
)
"""Each has the whole paths of its routes, such as `/v2/queues/{name}`."""
