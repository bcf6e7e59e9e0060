"""The routers of the REST API beside publish, enqueue and batch, in the order of its reference."""

from collections.abc import Sequence

from fastapi import APIRouter

ROUTERS: Sequence[APIRouter] = ()
"""Each has the whole paths of its routes, such as `/v2/queues/{name}`."""
