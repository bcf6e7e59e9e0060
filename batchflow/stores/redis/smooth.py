"""Steps and ends of items that have gone smoothly so far: what a batch does most, so it goes to the script as it is.

Whether an item has, the script knows; here is only seen what cannot have: a second claim, effects, another ending.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from batchflow.core.run import Step
from batchflow.core.settlement import Settlement


class Smooth:
    """Those of one group: the slots of their operations, steps first, and the arguments that the script takes."""

    __slots__ = ("_ends", "_steps", "ends", "steps")

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.ends: list[int] = []
        self._steps: list[str | bytes] = []
        self._ends: list[str | bytes] = []

    def take(self, slot: int, verb: str, arguments: Sequence[Any]) -> bool:
        """Whether the operation is one of them.

        Raises:
            PydanticSerializationError: it holds text that has no encoding.
        """
        if verb == "record":
            id, fence, step = arguments
            return fence == 1 and _is_item(id) and self._step(slot, id, step)
        return verb == "settle" and self._end(slot, arguments[0])

    def _step(self, slot: int, id: str, step: Step) -> bool:
        self._steps += (id, f"s{step.number}", to_json(step))
        self.steps.append(slot)
        return True

    def _end(self, slot: int, ends: Settlement) -> bool:
        if ends.ending != "done" or ends.fence != 1 or ends.effects or not _is_item(ends.id):
            return False
        self._ends += (ends.id, b"null" if ends.result is None else to_json(ends.result), str(ends.took_ms))
        self.ends.append(slot)
        return True

    def arguments(self, worker: str) -> list[str | bytes]:
        """What the script takes: the worker, how many of each, and they themselves."""
        if not self.steps and not self.ends:
            return []
        return [worker, str(len(self.steps)), str(len(self.ends)), *self._steps, *self._ends]


def _is_item(id: str) -> bool:
    return id[-11:-9] == ".r"
