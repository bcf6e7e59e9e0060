"""The confirmation of a large batch: its size, where that is above the `confirm_above` of its workflow."""

from pydantic import BaseModel

from batchflow.batch.arguments import BatchTrigger, check_ids, check_limit
from batchflow.batch.names import quantity
from batchflow.batch.payloads import CycleDetector
from batchflow.batch.runtime import WorkflowRuntime


async def find_large_size(runtime: WorkflowRuntime, params: BaseModel, options: BatchTrigger) -> str | None:
    """Return the size of a batch for people, such as "12,345 users", if somebody has to confirm it; None otherwise.

    The ids of the trigger are counted, or `count` is asked. Without `count` pages are fetched until there are too many
    ids: "more than 10,000 users".

    Raises:
        InputError: the ids or the limit are not valid.
        Exception: a hook has failed.
    """
    definition = runtime.definition
    most = definition.confirm_above
    ids = check_ids(definition, options.ids)
    check_limit(options.limit, ids)
    if most is None or (options.limit is not None and options.limit <= most):
        return None
    if ids is not None:
        size = len(ids)
    elif (count := runtime.hook("count")) is not None:
        with runtime.hooks_outside_of_batches(params):
            size = await count(params)
    elif await _has_more(runtime, params, most):
        return f"more than {quantity(most, definition.wire.entity, definition.wire.plural)}"
    else:
        return None
    size = size if options.limit is None else min(size, options.limit)
    return quantity(size, definition.wire.entity, definition.wire.plural) if size > most else None


async def _has_more(runtime: WorkflowRuntime, params: BaseModel, most: int) -> bool:
    """Return True if the source has more ids than `most`."""
    source, cursor, probe, found = runtime.source, None, CycleDetector(), 0
    with runtime.hooks_outside_of_batches(params):
        while True:
            page = await source.fetch(params, cursor, runtime.definition.page_size)
            found += len(page.ids)
            cursor = page.next_cursor
            if found > most or cursor is None:
                return found > most
            probe = source.advance(probe, cursor)
