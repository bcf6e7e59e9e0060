"""Reads what is known of workflow runs: a run with its posts and their logs, and the failure callbacks of runs."""

import asyncio
from collections.abc import Mapping, Sequence

from pydantic_core import from_json

from batchflow.core.posts import LogEntry
from batchflow.core.wire_runs import WireRun
from batchflow.server.context import ServerContext
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_history import FailureCallback, RunHistory
from batchflow.wire.run_posts import failure_id

_WHOLE_LOG = 1000


async def read_history(context: ServerContext, run: WireRun) -> RunHistory | None:
    """A run with its history; None if it was removed meanwhile."""
    wire, tenant = context.wire, run.tenant
    entries, members = await asyncio.gather(wire.run_entries(tenant, run.id), wire.run_members(tenant, run.id))
    if not entries:
        return None
    ids = [it.message for it in members]
    created, latest = await asyncio.gather(wire.created_entries(tenant, ids), wire.latest_entries(tenant, ids))
    attempted = [id for id, entry in latest.items() if entry.state not in ("CREATED", "DELIVERED")]
    logs = await asyncio.gather(*(_whole_log(context, tenant, id) for id in attempted))
    return RunHistory(
        run=run,
        config=RunConfig.of_text(run.config),
        entries=entries,
        members=members,
        created={id: from_json(entry.detail) for id, entry in created.items()},
        latest=latest,
        attempts=dict(zip(attempted, logs, strict=True)),
        now=context.now(),
    )


async def failure_callbacks(
    context: ServerContext, tenant: str, failed: Sequence[str]
) -> Mapping[str, FailureCallback]:
    """The failure callbacks of the runs that these posts have ended, by their ids; of one that was retried the last."""
    found: dict[str, tuple[int, LogEntry]] = {}
    attempt, left = 0, list(failed)
    while left:
        created = await context.wire.created_entries(tenant, [failure_id(id, attempt) for id in left])
        left = [id for id in left if failure_id(id, attempt) in created]
        found.update((id, (attempt, created[failure_id(id, attempt)])) for id in left)
        attempt += 1
    logs = await asyncio.gather(*(_whole_log(context, tenant, entry.message) for _, entry in found.values()))
    return {
        id: FailureCallback(from_json(entry.detail), log, attempt)
        for (id, (attempt, entry)), log in zip(found.items(), logs, strict=True)
    }


async def _whole_log(context: ServerContext, tenant: str, message: str) -> Sequence[LogEntry]:
    """The log of a post, from its oldest entry on."""
    logged = await context.wire.log_entries(tenant, message=message, limit=_WHOLE_LOG)
    return [it.entry for it in reversed(logged)]
