"""Faults by name: a store that dies, fails or loses its reply at a verb of the test's choice."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from batchflow.core.spelling import did_you_mean
from batchflow.core.store import Renew, Store
from batchflow.errors import ConfigurationError, StoreUnavailable
from batchflow.testing.passing import VERBS, PassingStore

T = TypeVar("T")
Fault: TypeAlias = Literal["die_before", "die_after", "lose_reply", "fail"]


class _Planned(NamedTuple):
    fault: Fault
    verb: str


class FaultyStore(PassingStore):
    """`store`, with one fault at the `nth` call of a verb and, for `fail` and `lose_reply`, the `times` - 1 after it.

        FaultyStore(store, die_before="settle")            # the third one: nth=3
        FaultyStore(store, die_after="settle")             # carried out, and nobody knows
        FaultyStore(store, lose_reply="publish")           # carried out, and StoreUnavailable is raised
        FaultyStore(store, fail="claim", times=5)          # not carried out, and StoreUnavailable is raised

    A store that died is one of a process that is gone: `died` is set, the call at which it died and all later ones
    never return, and nothing reaches the store any more; `drive` raises `Died`. `calls` counts the calls of each verb.

    Raises:
        ConfigurationError: no fault or several are named, a store has no such verb, or a count is below 1.
    """

    def __init__(
        self,
        store: Store,
        *,
        die_before: str | None = None,
        die_after: str | None = None,
        lose_reply: str | None = None,
        fail: str | None = None,
        nth: int = 1,
        times: int = 1,
    ) -> None:
        super().__init__(store)
        self.calls: dict[str, int] = dict.fromkeys(VERBS, 0)
        self._plan = _one_of(die_before=die_before, die_after=die_after, lose_reply=lose_reply, fail=fail)
        if nth < 1 or times < 1:
            raise ConfigurationError(f"'nth' ({nth}) and 'times' ({times}) count from 1")
        self._first, self._last = nth, nth + times - 1

    def repair(self) -> None:
        """No more faults from here on, unless it has died."""
        self._last = 0

    # What happens at a verb

    def _meets(self, verb: str) -> Fault | None:
        self.calls[verb] += 1
        due = self._plan.verb == verb and self._first <= self.calls[verb] <= self._last
        return self._plan.fault if due else None

    async def _through(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.died.is_set():
            await self._gone(verb)
        fault = self._meets(verb)
        if fault == "die_before":
            await self._die(verb)
        if fault == "fail":
            raise StoreUnavailable(f"'{verb}' fails, as the test wants it")
        answer = await call()
        if fault == "die_after" or self.died.is_set():
            await self._die(verb)
        if fault == "lose_reply":
            raise StoreUnavailable(f"the reply to '{verb}' is lost, as the test wants it")
        return answer

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncGenerator[Renew]:
        """See the protocol; a dead process renews nothing."""
        async with self.store.renewing() as renew:

            async def meets(worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0) -> bool:
                fault = None if self.died.is_set() else self._meets("renew")
                if fault == "die_before":
                    self.died.set()
                if self.died.is_set():
                    raise StoreUnavailable("the process has died, as the test wants it")
                if fault == "fail":
                    raise StoreUnavailable("'renew' fails, as the test wants it")
                held = await renew(worker, lease_ms, hung, hanging)
                if fault == "die_after":
                    self.died.set()
                if fault is not None:
                    raise StoreUnavailable("the reply to 'renew' is lost, as the test wants it")
                return held

            yield meets


def _one_of(**faults: str | None) -> _Planned:
    chosen: list[Any] = [(fault, verb) for fault, verb in faults.items() if verb is not None]
    if len(chosen) != 1:
        raise ConfigurationError(f"a FaultyStore has one fault of {', '.join(faults)}; {len(chosen)} are named")
    fault, verb = chosen[0]
    if verb not in VERBS:
        raise ConfigurationError(f"a store has no verb '{verb}'{did_you_mean(verb, VERBS)}")
    return _Planned(fault, verb)
