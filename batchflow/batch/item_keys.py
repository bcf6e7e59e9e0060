"""The flow keys of items: calls `item_flow` for the items that a page starts, and checks what it returns."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from batchflow.batch.definition import Definition
from batchflow.batch.workflow import BatchWorkflow
from batchflow.core.codec import Codec
from batchflow.core.flow import FlowControl
from batchflow.errors import NonRetryable
from batchflow.serve.callables import as_async

ITEM = "item"
"""The parameter of `item_flow` that gets the item in the page."""


@dataclass(frozen=True, slots=True)
class ItemLimits:
    """The limits of items as a step keeps them: the different ones, and of each item the place of its own, from 1 on.

    0 stands for an item without any. Limits are key, parallelism, rate, period in ms and burst.
    """

    limits: list[tuple[str, int | None, int | None, int, int]]
    places: list[int]

    @classmethod
    def of(cls, flows: Sequence[FlowControl | None]) -> "ItemLimits":
        """Return the limits of items, in their order."""
        places: dict[FlowControl, int] = {}
        found = [0 if flow is None else places.setdefault(flow, len(places) + 1) for flow in flows]
        limits = [(it.key or "", it.parallelism, it.rate, it.period_ms, it.burst) for it in places]
        return cls(limits, found)

    def flows(self) -> list[FlowControl | None]:
        """Return the limits of each item."""
        known = [None, *(FlowControl.of_ms(*limits) for limits in self.limits)]
        return [known[place] for place in self.places]


class ItemKeys:
    """Finds the limits of items by calling `item_flow` of a workflow.

    It is called in a worker thread, for all items that a page or chunk starts, one after the other: so that it may take
    its time, and costs one thread for all of them.
    """

    def __init__(self, workflow: BatchWorkflow[Any, Any, Any], definition: Definition) -> None:
        self._definition = definition
        self._hook: Callable[..., Any] = workflow.item_flow
        self._takes_item = ITEM in inspect.signature(self._hook).parameters
        self.find = as_async(self._find)
        self.codec: Codec[ItemLimits] = Codec.of(ItemLimits)

    def _find(self, params: BaseModel, ids: Sequence[str], data: Mapping[str, str] | None) -> ItemLimits:
        """Return the limits of the items `ids`; `data` are the JSON texts of the items in the page, by id.

        Raises:
            NonRetryable: `item_flow` returned something else than limits with a key of their own, or None.
        """
        return ItemLimits.of([self._check(id, self._call(params, id, data)) for id in ids])

    def _call(self, params: BaseModel, id: str, data: Mapping[str, str] | None) -> Any:
        if not self._takes_item:
            return self._hook(params, id)
        return self._hook(params, id, item=None if data is None else self._definition.item_codec.decode(data[id]))

    def _check(self, id: str, flow: Any) -> FlowControl | None:
        if flow is None:
            return None
        name, own = f"{self._definition.class_name}.item_flow", self._definition.execute_flow.key
        if not isinstance(flow, FlowControl):
            raise NonRetryable(
                f"{name} returned {flow!r} for the item '{id}'; write FlowControl(key=…, parallelism=1), or None "
                f"for no limits of its own"
            )
        if flow.key is None:
            raise NonRetryable(
                f"{name} returned limits without a key for the item '{id}'; write FlowControl(key=…, …): items with "
                f"the same key share its limits"
            )
        if flow.key == own:
            raise NonRetryable(
                f"{name} returned the key '{own}' for the item '{id}', which is that of execute_flow and limits all "
                f"items already; write another one, or return None"
            )
        return flow
