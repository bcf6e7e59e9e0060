"""The endpoint of `on_item_failure`: calls the hook once an item has failed for good."""

from typing import Any

from batchflow.batch.hook_scope import CURRENT_HOOK, HookScope
from batchflow.batch.item_failure import ItemFailure
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.core.codec import Codec
from batchflow.core.dead_letters import DeadLetter
from batchflow.core.ports import LogNames
from batchflow.errors import InputError, NonRetryable
from batchflow.serve.context import LayerContext
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.failure_functions import FailureCode, about_failure, failure_endpoint


def item_failure_endpoint(runtime: WorkflowRuntime) -> Endpoint | None:
    """Return the endpoint of the `on_item_failure` hook, which nobody but the store publishes to; None without one."""
    hook, definition = runtime.hook("on_item_failure"), runtime.definition
    if hook is None:
        return None
    route = definition.routes.execute

    async def find(id: str) -> DeadLetter | None:
        # Items live in the app's own store, wherever its runs do.
        return await runtime.client.store.dead_letter(id)

    async def failure_of(letter: DeadLetter, ctx: LayerContext[Any]) -> ItemFailure[Any]:
        id, item_id = letter.message.batch or "", letter.item or ""
        batch = await runtime.client.store.batch(id)
        if batch is None:
            raise NonRetryable(f"batch '{id}' was removed before its on_item_failure ran")

        def read_params() -> Any:
            return runtime.read_params(batch.params)

        try:
            params: Any = read_params()
        except InputError:
            params = None
        CURRENT_HOOK.set(HookScope(runtime.client, definition.name, params, id, item_id, batch.headers))
        url = ctx.url_of(route, batch.headers)
        return ItemFailure(**about_failure(letter, url, batch.headers, read_params), item_id=item_id, batch_id=id)

    code = FailureCode(
        find=find,
        read=failure_of,
        call=hook,
        step=definition.steps.on_item_failure,
        result=Codec.of_result(runtime.workflow.on_item_failure),
    )
    return failure_endpoint(
        code,
        route=route,
        name=definition.name,
        log=LogNames(f"{definition.name}:failure", "on_item_failure failed for good"),
        client=runtime.client,
        timeout_ms=definition.timeout_ms,
    )
