"""The types of the events that runs wait for, as far as this process knows them."""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

from batchflow.core.codec import Codec
from batchflow.core.run import Waiter

_LIMIT = 10_000


class ExpectedData:
    """The declared types of waits that this process has run into, the latest 10,000.

    Only the code has the type of a wait, so that a process knows those of the runs that it has executed.
    """

    def __init__(self) -> None:
        self._codecs: OrderedDict[tuple[str, str], tuple[str, Codec[Any]]] = OrderedDict()
        self._events = Counter[str]()

    def add(self, run: str, step: str, event: str, codec: Codec[Any]) -> None:
        """Note that a step of a run waits for an event with data of this type."""
        self.discard(run, step)
        self._codecs[run, step] = event, codec
        self._events[event] += 1
        if len(self._codecs) > _LIMIT:
            self.discard(*next(iter(self._codecs)))

    def discard(self, run: str, step: str) -> None:
        """Forget a step, which waits no more."""
        found = self._codecs.pop((run, step), None)
        if found is not None:
            self._events[found[0]] -= 1
            if not self._events[found[0]]:
                del self._events[found[0]]

    def knows(self, event: str) -> bool:
        """True if the type of any wait for the event is known."""
        return event in self._events

    def of(self, waiters: Iterable[Waiter]) -> list[Codec[Any]]:
        """The known types among some waits, each once."""
        found = (self._codecs.get((waiter.run, waiter.step)) for waiter in waiters)
        return list(dict.fromkeys(known[1] for known in found if known is not None))
