"""A group of operations as the script takes it, and its answers brought back to where they belong."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, from_json

from batchflow.core.settlement import Publish
from batchflow.stores.grouping import rank
from batchflow.stores.redis import reads, wire
from batchflow.stores.redis.smooth import Smooth

VALUES: dict[str, Callable[[Any], Any]] = {"settle": reads.settled, "claim": reads.claimed}
"""What is made of the answers of some verbs before anybody has them."""


class Asked(NamedTuple):
    """A verb with its arguments."""

    verb: str
    arguments: Sequence[Any]


class Packed:
    """A group: what goes to the script, and by slot what cannot go there at all.

    `worker` is who holds the claims of the group where only one can, else empty: then nothing is taken to go smoothly.
    """

    __slots__ = ("_operations", "_ranked", "_smooth", "_worker", "refused")

    def __init__(self, operations: Sequence[Asked], worker: str) -> None:
        self._operations = operations
        self._worker = worker
        self._smooth = smooth = Smooth()
        self._ranked: list[tuple[int, int, bytes]] = []
        self.refused: list[tuple[int, Exception]] = []
        # Ends come after effects that are still on their way. Of those that only publish, the claim itself is held, and
        # keeps its batch open whatever else ends: so only its own end has to wait.
        telling = [arguments for verb, arguments in operations if verb == "record_with_effects"]
        easy = worker and all(isinstance(effect, Publish) for arguments in telling for effect in arguments[3])
        later = {arguments[0] for arguments in telling}
        for slot, (verb, arguments) in enumerate(operations):
            try:
                awaits = later and verb == "settle" and arguments[0].id in later
                if awaits or not (easy and smooth.take(slot, verb, arguments)):
                    self._ranked.append((_rank(verb, arguments), slot, wire.operation(verb, arguments)))
            except (PydanticSerializationError, UnicodeError) as error:
                self.refused.append((slot, error))
        self._ranked.sort(key=lambda one: one[:2])

    @property
    def texts(self) -> list[bytes]:
        """Operations that the script reads, in their order."""
        return [text for _, _, text in self._ranked]

    @property
    def plain(self) -> list[str | bytes]:
        """Those that it takes as they are."""
        return self._smooth.arguments(self._worker)

    @property
    def slots(self) -> list[int]:
        """All that goes to the script, the smooth first."""
        return [*self._smooth.steps, *self._smooth.ends, *[slot for _, slot, _ in self._ranked]]

    def answers(self, reply: Any) -> Iterable[tuple[int, bool, Any]]:
        """What the script answered, by slot: whether it was carried out, and its answer or the error's text."""
        found: list[tuple[bool, Any]]
        # Of the smooth ones those that went otherwise than expected, by their place from 1 on.
        otherwise: list[tuple[int, bool, Any]]
        found, otherwise = from_json(reply)
        smooth = self._smooth
        yield from [(slot, True, "recorded") for slot in smooth.steps]
        yield from [(slot, True, reads.FRESH) for slot in smooth.ends]
        slots = self.slots
        for place, fine, answer in otherwise:
            yield self._made(slots[place - 1], fine, answer)
        for (_, slot, _), (fine, answer) in zip(self._ranked, found, strict=True):
            yield self._made(slot, fine, answer)

    def _made(self, slot: int, fine: bool, answer: Any) -> tuple[int, bool, Any]:
        made = VALUES.get(self._operations[slot].verb) if fine else None
        return slot, fine, made(answer) if made else answer


def _rank(verb: str, arguments: Sequence[Any]) -> int:
    # What stays comes before what ends: a step that begins to wait with its suspension is there when its child ends.
    return 2 * rank(verb) + (verb == "settle" and arguments[0].ending in {"done", "answered", "dead", "cancelled"})
