"""Typed batch fan-out jobs: one class, three durable layers."""

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.item_failure import ItemFailure
from batchflow.batch.status import BatchSummary
from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import Schedule
from batchflow.core.secrets import Secret
from batchflow.errors import BatchflowError, NonRetryable, RateLimited, RetryAfter, StepFailed
from batchflow.qstash.options import QStash
from batchflow.qstash.receiver import Receiver
from batchflow.serve.context import WorkflowContext
from batchflow.serve.failure_functions import RunFailure

__all__ = [
    "BatchHandle",
    "BatchSummary",
    "BatchWorkflow",
    "Batchflow",
    "BatchflowError",
    "FailureBudget",
    "FlowControl",
    "ItemFailure",
    "NoParams",
    "NonRetryable",
    "Page",
    "QStash",
    "RateLimited",
    "Receiver",
    "RetryAfter",
    "RetryPolicy",
    "RunFailure",
    "Schedule",
    "Secret",
    "StepFailed",
    "Workflow",
    "WorkflowContext",
]
