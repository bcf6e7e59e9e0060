"""The flow keys of an app on QStash, read and changed over its REST API."""

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

from batchflow.core.flow import FlowControl, FlowHolder, FlowStatus
from batchflow.core.store import FlowKeyAdmin
from batchflow.errors import InputError, NotFoundError
from batchflow.qstash.rest import QStashRest
from batchflow.qstash.shown import Shown
from batchflow.wire.publish_headers import MAX_PERIOD_S

_PATH = "/v2/flowControl"


class ShownFlowKey(Shown):
    """A flow key; 0 stands for the absence of a limit, and the period is in seconds."""

    flow_control_key: str
    wait_list_size: int = 0
    parallelism_max: int = 0
    parallelism_count: int = 0
    rate_max: int = 0
    rate_period: int = 1
    is_paused: bool = False
    is_pinned_parallelism: bool = False
    is_pinned_rate: bool = False

    def to_status(self) -> FlowStatus:
        """The state of the key as batchflow has it."""
        rate, period_ms = self.rate_max or None, max(1, self.rate_period) * 1000
        limits = FlowControl.of_ms(
            self.flow_control_key, self.parallelism_max or None, rate, period_ms, burst=rate or 1
        )
        return FlowStatus(
            limits,
            self.is_pinned_parallelism,
            self.is_pinned_rate,
            self.is_paused,
            in_use=self.parallelism_count,
            waiting=self.wait_list_size,
            parked_until=0,
        )


class QStashFlowKeys:
    """See `batchflow.core.store.FlowKeyAdmin`. `declared` are the limits of the app's code.

    QStash knows a key from its first message on; until then it is shown as the code declares it.
    """

    def __init__(self, rest: QStashRest, declared: Sequence[FlowControl]) -> None:
        self._rest = rest
        self._declared = declared

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the port."""
        # A key without limits is not sent to QStash.
        idle = {it.key or "": _idle(it) for it in self._declared if it.parallelism or it.rate}
        if keys is None:
            answer = await self._rest.get(_PATH)
            with self._rest.reading():
                shown = [ShownFlowKey.model_validate(it) for it in answer]
                found = {**idle, **{it.flow_control_key: it.to_status() for it in shown}}
            return [found[key] for key in sorted(found)]
        return [it for key in keys if (it := await self._find(key) or idle.get(key)) is not None]

    async def _find(self, key: str) -> FlowStatus | None:
        try:
            answer = await self._rest.get(_path(key))
        except NotFoundError:
            return None
        with self._rest.reading():
            return ShownFlowKey.model_validate(answer).to_status()

    async def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        """See the port: QStash does not show them."""
        return ()

    async def pin(self, limits: FlowControl, until: int | None = None) -> None:
        """See the port.

        Raises:
            InputError: the pin would end by itself, or the period is not one that QStash has.
        """
        _check_lasting(until)
        query: dict[str, str] = {}
        if limits.parallelism is not None:
            query["parallelism"] = str(limits.parallelism)
        if limits.rate is not None:
            seconds, rest = divmod(limits.period_ms, 1000)
            if rest or seconds > MAX_PERIOD_S:
                want = "write whole seconds, at most 7d, for QStash"
                raise InputError(option="period", got=repr(limits.period), want=want, field="period")
            query |= {"rate": str(limits.rate), "period": str(seconds)}
        await self._rest.change("POST", f"{_path(limits.key or '')}/pin", query)

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """See the port; QStash keeps the pinned limits in force until the next message brings those of the code."""
        query = {name: "true" for name, chosen in (("parallelism", parallelism), ("rate", rate)) if chosen}
        if query:
            await self._rest.change("POST", f"{_path(key)}/unpin", query)

    async def pause(self, key: str, until: int | None = None) -> None:
        """See the port.

        Raises:
            InputError: the pause would end by itself.
        """
        _check_lasting(until)
        await self._rest.change("POST", f"{_path(key)}/pause")

    async def resume(self, key: str) -> None:
        """See the port."""
        await self._rest.change("POST", f"{_path(key)}/resume")

    async def reset(self, key: str, *, starts_only: bool = False) -> None:
        """See the port; in QStash a key is not parked and has no circuit breaker."""
        if not starts_only:
            await self.unpin(key)
            await self.resume(key)
        await self._rest.change("POST", f"{_path(key)}/resetRate")


class BatchFlowKeys(QStashFlowKeys):
    """Flow keys of batches too: the limits, pins and pauses are in QStash, parkings and circuit breakers in `stored`.

    `give_due` gives QStash the messages that are due.
    """

    def __init__(
        self,
        rest: QStashRest,
        declared: Sequence[FlowControl],
        stored: FlowKeyAdmin,
        give_due: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(rest, declared)
        self._stored = stored
        self._give_due = give_due

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See the port."""
        found = {it.limits.key or "": it for it in await super().flows(keys, waiting=waiting)}
        for it in await self._stored.flows(keys, waiting=False):
            key = it.limits.key or ""
            # QStash forgets a key that nothing waits for.
            if key in found or it.parked_until or it.breaker.in_a_row:
                found[key] = found.get(key, it)._replace(parked_until=it.parked_until, breaker=it.breaker)
        return [found[key] for key in (sorted(found) if keys is None else keys) if key in found]

    async def reset(self, key: str, *, starts_only: bool = False) -> None:
        """See the port."""
        await super().reset(key, starts_only=starts_only)
        await self._stored.reset(key, starts_only=starts_only)
        await self._give_due()


def _idle(limits: FlowControl) -> FlowStatus:
    return FlowStatus(limits, False, False, False, in_use=0, waiting=0, parked_until=0)


def _path(key: str) -> str:
    return f"{_PATH}/{quote(key, safe='')}"


def _check_lasting(until: int | None) -> None:
    if until is not None:
        want = "leave it out, and undo it by hand: QStash has neither pins nor pauses that end by themselves"
        raise InputError("is not supported on QStash", option="duration", want=want, field="duration")
