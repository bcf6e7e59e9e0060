"""`flow.limits`: the limits of flow keys, as operators see and change them while work runs."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from batchflow.core.duration import Duration, is_duration, to_ms
from batchflow.core.flow import FlowControl, FlowHolder, FlowStatus
from batchflow.core.ports import Client
from batchflow.core.suggestions import closest
from batchflow.errors import ConfigurationError, InputError, NotFoundError

MAX_PAGE = 1_000
_RATE = re.compile(r"\s*([0-9]{1,9})\s*(?:/\s*([0-9a-z.]+)\s*)?")
_MAX_NAMED = 10
_UNITS = ("ms", "s", "m", "h", "d")


class FlowKeyPage(NamedTuple):
    """A page of flow keys, by name. `next_cursor` is the cursor of the next page, or None."""

    keys: Sequence[FlowStatus]
    next_cursor: str | None = None


class LimitAdmin:
    """The flow keys of an app's store, or of its QStash.

    A change is in force at the next claim of every worker, and a deploy keeps it.

    With a `duration`, such as "2h", a pin or a pause ends by itself after that time. Every verb may be repeated.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self, *, after: str = "", limit: int = 100) -> FlowKeyPage:
        """A page of the flow keys after `after`, by name, those of other apps of the store too."""
        found = [it for it in await self._client.flow_keys.flows() if (it.limits.key or "") > after]
        page = found[:limit]
        return FlowKeyPage(page, page[-1].limits.key if len(found) > limit else None)

    async def get(self, key: str) -> FlowStatus:
        """The current state of a flow key.

        Raises:
            NotFoundError: it does not exist.
        """
        for status in await self._client.flow_keys.flows([key]):
            return status
        raise await self._not_found(key)

    async def holders(self, key: str, *, limit: int = 100) -> Sequence[FlowHolder]:
        """The runs and items that take the places of a flow key, those that started first before the others.

        Raises:
            NotFoundError: it does not exist.
        """
        await self.get(key)
        return await self._client.flow_keys.flow_holders(key, limit)

    async def pin(
        self,
        key: str,
        *,
        parallelism: int | None = None,
        rate: int | str | None = None,
        period: Duration | None = None,
        duration: Duration | None = None,
    ) -> FlowStatus:
        """Override the parallelism of a flow key, its rate, or both, until `unpin`; the other limit stays.

        A rate is a number of starts per `period`, by default one second, or text such as "2/s" and "100/1m".

        Raises:
            InputError: no limit is given, or one is invalid.
            NotFoundError: the flow key does not exist.
        """
        if parallelism is None and rate is None:
            raise InputError("say what to pin: the parallelism, the rate or both", field="parallelism")
        if rate is None and period is not None:
            raise InputError("belongs to a rate", option="period", want="give the rate, too", field="period")
        try:
            starts, per = parse_rate(rate) if isinstance(rate, str) else (rate, None)
            if per is not None and period is not None:
                raise InputError("is in the rate already", option="period", want="leave one out", field="period")
            within = period if per is None else per
            limits = FlowControl(
                key=key, parallelism=parallelism, rate=starts, period="1s" if within is None else within
            )
        except ConfigurationError as error:
            if error.option == "key":
                raise await self._not_found(key) from error
            raise _as_input(error) from error
        until = self._until(duration)
        await self.get(key)
        await self._client.flow_keys.pin(limits, until)
        return await self.get(key)

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> FlowStatus:
        """Remove the pins of a flow key; the limits of the code are in force again.

        Raises:
            NotFoundError: it does not exist.
        """
        status = await self.get(key)
        await self._client.flow_keys.unpin(key, parallelism=parallelism, rate=rate)
        return await self._present(status)

    async def pause(self, key: str, *, duration: Duration | None = None) -> FlowStatus:
        """Start nothing under a flow key until `resume`; runs and items under way go on, and pins stay.

        Raises:
            InputError: the duration is invalid.
            NotFoundError: the flow key does not exist.
        """
        until = self._until(duration)
        await self.get(key)
        await self._client.flow_keys.pause(key, until)
        return await self.get(key)

    async def resume(self, key: str) -> FlowStatus:
        """Undo `pause`.

        Raises:
            NotFoundError: the flow key does not exist.
        """
        status = await self.get(key)
        await self._client.flow_keys.resume(key)
        return await self._present(status)

    async def reset(self, key: str) -> FlowStatus:
        """Remove pins, pause and parking of a flow key, close its circuit breaker, and forget its latest starts.

        Raises:
            NotFoundError: the flow key does not exist.
        """
        status = await self.get(key)
        await self._client.flow_keys.reset(key)
        return await self._present(status)

    def _until(self, duration: Duration | None) -> int | None:
        if duration is None:
            return None
        try:
            lasts = to_ms(duration, option="duration")
        except ConfigurationError as error:
            raise _as_input(error) from error
        if not lasts:
            raise InputError(
                option="duration",
                got=repr(duration),
                want="write a time such as '2h', or leave it out",
                field="duration",
            )
        return self._client.now() + lasts

    async def _present(self, before: FlowStatus) -> FlowStatus:
        # A key that nothing holds any more can be removed at any time.
        found = await self._client.flow_keys.flows([before.limits.key or ""])
        return found[0] if found else before

    async def _not_found(self, key: str) -> NotFoundError:
        names = [it.limits.key or "" for it in await self._client.flow_keys.flows()]
        if (close := closest(key, names)) is not None:
            end = f"; did you mean '{close}'?"
        elif names:
            listed = ", ".join(f"'{it}'" for it in names[:_MAX_NAMED])
            others = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
            end = f"; known are {listed}{others}"
        else:
            end = "; there are none yet: an app declares its keys when it starts"
        return NotFoundError(f"there is no flow key '{key}'{end}", field="key")


def parse_rate(text: str) -> tuple[int, str | None]:
    """The number and the period of a rate such as "2/s" or "100/1m"; without a period None.

    Raises:
        InputError: it is not a rate.
    """
    found = _RATE.fullmatch(text)
    period = found[2] if found else None
    if period in _UNITS:
        period = f"1{period}"
    if found is None or (period is not None and not is_duration(period)):
        want = "write starts per time, such as 2/s or 100/1m"
        raise InputError(option="rate", got=repr(text), want=want, field="rate")
    return int(found[1]), period


def _as_input(error: ConfigurationError) -> InputError:
    return InputError(error.problem, option=error.option, got=error.got, want=error.want, field=error.option)
