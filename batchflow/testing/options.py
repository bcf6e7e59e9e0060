"""What can be set for a test environment, and for what is started in it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, TypedDict

from batchflow.core.clock import Clock
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.stores.protocol import Store

StoreOption: TypeAlias = str | Store | Callable[[Clock], Store] | None
"""Where a test's state lives: a URL, a function that makes a store with the test's clock, or a store made by hand."""


class RunOptions(TypedDict, total=False):
    """What a trigger of a served function may set; see `ServedFunction.trigger`."""

    run_id: str | None
    dedup_id: str | None
    delay: Duration | None
    not_before: datetime | int | None
    label: str | None
    headers: Mapping[str, str] | None
    retries: int | None
    retry_delay: RetryPolicy | Duration | None
    flow_control: FlowControl | None


class BatchOptions(TypedDict, total=False):
    """What a trigger of a batch may set; see `Workflow.trigger`."""

    force: bool
    ids: Sequence[str] | None
    limit: int | None
    dedup_id: str | None
    label: str | None
