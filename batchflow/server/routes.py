"""The routers of the REST API beside publish, enqueue and batch, in the order of its reference."""

from collections.abc import Sequence

from fastapi import APIRouter

from batchflow.server import not_supported

ROUTERS: Sequence[APIRouter] = (not_supported.router,)
"""Each has the whole paths of its routes, such as `/v2/queues/{name}`."""
