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
    queues,
    run_logs,
    runs,
    schedules,
    waits,
    workflow_dlq,
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
    run_logs.router,
    workflow_dlq.router,
)
"""Each has the whole paths of its routes, such as `/v2/queues/{name}`."""
