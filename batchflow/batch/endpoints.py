"""The layers of a bound workflow, each at its route."""

from collections.abc import Iterator

from batchflow.batch.complete import CompleteLayer
from batchflow.batch.entry import EntryLayer
from batchflow.batch.execute import ExecuteLayer
from batchflow.batch.layers import Layers
from batchflow.batch.paginate import PaginateLayer
from batchflow.core.flow import FlowControl
from batchflow.core.limit import UNLIMITED
from batchflow.serve.endpoint import DurableFunction, Endpoint


def endpoints_of(layers: Layers) -> tuple[Endpoint, ...]:
    """Three endpoints, and a fourth for the end of a batch: `on_complete`, or a run that waits for the batch."""
    return tuple(
        Endpoint(
            route=route,
            name=f"{layers.definition.name}:{layer}",
            function=handler,
            payload=layers.params,
            flow=flow,
            retry=layers.definition.retry,
            timeout_ms=layers.definition.timeout_ms,
            # What the layers above the items record is pages of ids, which their sizes bound.
            limit=layers.client.limit if layer == "execute" else UNLIMITED,
        )
        for route, layer, handler, flow in _served(layers)
    )


def _served(layers: Layers) -> Iterator[tuple[str, str, DurableFunction, FlowControl]]:
    definition, routes = layers.definition, layers.definition.routes
    yield routes.process, "process", EntryLayer(layers).handle, definition.entry_flow
    yield routes.paginate, "paginate", PaginateLayer(layers).handle, definition.paginate_flow
    yield routes.execute, "execute", ExecuteLayer(layers).handle, definition.execute_flow
    yield routes.complete, "complete", CompleteLayer(layers).handle, definition.complete_flow
