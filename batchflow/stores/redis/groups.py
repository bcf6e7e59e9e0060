"""Carrying groups of operations out, each in a task of its own, and answering whoever asked whatever happens to it."""

import asyncio
from collections.abc import Callable

from batchflow.core.settlement import Settlement
from batchflow.stores.grouping import Answers, Operation
from batchflow.stores.redis.calls import Calls
from batchflow.stores.redis.packing import Asked


class Groups:
    """What `batchflow.stores.grouping.Grouping` hands its groups to; `on_end` is told of each settlement answered."""

    def __init__(self, calls: Calls, on_end: Callable[[Settlement], None] | None = None) -> None:
        self._calls = calls
        self._on_end = on_end
        self._under_way: set[asyncio.Task[Answers]] = set()

    def submit(self, group: list[Operation], done: Callable[[Answers], None]) -> None:
        """Carry a group out, and call `done` with its answers on the event loop."""

        def finished(task: asyncio.Task[Answers]) -> None:
            self._under_way.discard(task)
            if task.cancelled():
                # A loop that ends cancels all there is: whoever asked, or will ask, must not wait for this for ever.
                done([(False, self._calls.failed(asyncio.CancelledError()))] * len(group))
            elif (error := task.exception()) is not None:
                done([(False, self._calls.failed(error))] * len(group))
            else:
                answers = task.result()
                if self._on_end is not None:
                    for operation, (carried_out, _) in zip(group, answers, strict=True):
                        if carried_out and operation.verb == "settle":
                            self._on_end(operation.arguments[0])
                done(answers)

        writing = self._calls.group([Asked(operation.verb, operation.arguments) for operation in group])
        task = asyncio.create_task(writing, name="batchflow-redis-group")
        self._under_way.add(task)
        task.add_done_callback(finished)
