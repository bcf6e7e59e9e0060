"""The routes of flow control: list, show, pause, resume, pin, unpin, reset; and the parallelism of all messages."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic_core import from_json

from batchflow.core.flow import FlowControl, FlowState, FlowStatus, admit
from batchflow.errors import InputError, NotFoundError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.wire_model import WireModel
from batchflow.wire.publish import host_flow_key, store_flow_key
from batchflow.wire.publish_headers import MAX_PERIOD_S, check_name

router = APIRouter(prefix="/v2", tags=["flow control"])

_PAGE = 100
_LOOKED_BACK = 5_000

_Limit = Annotated[int | None, Query(ge=1, le=999_999_999)]


class FlowControlInfo(WireModel):
    """A flow-control key: its limits in force, 0 for none, and what they let through now.

    `wait_list_size` is the number of its messages that wait, those that are not due included. `rate_count` are the
    starts that count against the rate, in a period of `rate_period` seconds that began at `rate_period_start` (in
    seconds of Unix time; 0 if none count): as they get older they count no more.
    """

    flow_control_key: str
    wait_list_size: int
    parallelism_max: int
    parallelism_count: int
    rate_max: int
    rate_count: int
    rate_period: int
    rate_period_start: int
    is_paused: bool
    is_pinned_parallelism: bool
    is_pinned_rate: bool

    @classmethod
    def of(cls, key: str, status: FlowStatus, now: int) -> "FlowControlInfo":
        """The JSON of a key."""
        limits = status.limits
        count, period_start = _counted_starts(status, now)
        return cls(
            flow_control_key=key,
            wait_list_size=status.waiting,
            parallelism_max=limits.parallelism or 0,
            parallelism_count=status.in_use,
            rate_max=limits.rate or 0,
            rate_count=count,
            rate_period=limits.period_ms // 1000,
            rate_period_start=period_start // 1000,
            is_paused=status.paused,
            is_pinned_parallelism=status.pinned_parallelism,
            is_pinned_rate=status.pinned_rate,
        )


class GlobalParallelismInfo(WireModel):
    """The deliveries under way. This server has no limit for all of them, which is 0."""

    parallelism_max: int
    parallelism_count: int


@router.get("/flowControl", summary="The flow-control keys in use, by name")
async def list_keys(context: Context, tenant: Tenant, search: str = "") -> list[FlowControlInfo]:
    """Those with `search` in their name. A key that nothing has used for a while is not listed."""
    prefix = store_flow_key(tenant, "")
    statuses = {it.limits.key or "": it for it in await context.store.flows()}
    names = {name.removeprefix(prefix): it for name, it in statuses.items() if name.startswith(prefix)}
    return [FlowControlInfo.of(name, it, context.now()) for name, it in names.items() if search in name]


@router.get("/globalParallelism", summary="The deliveries under way")
async def get_global_parallelism(context: Context, tenant: Tenant) -> GlobalParallelismInfo:
    """Those of the tenant."""
    prefixes = store_flow_key(tenant, ""), host_flow_key(tenant, "")
    statuses = await context.store.flows(waiting=False)
    count = sum(it.in_use for it in statuses if (it.limits.key or "").startswith(prefixes))
    return GlobalParallelismInfo(parallelism_max=0, parallelism_count=count)


@router.get("/flowControl/{key}", summary="A flow-control key")
async def get_key(context: Context, tenant: Tenant, key: str) -> FlowControlInfo:
    """Its limits and what they let through now."""
    return FlowControlInfo.of(key, await _status(context, tenant, key), context.now())


@router.post("/flowControl/{key}/pause", summary="Pause a key", response_class=Response)
async def pause_key(context: Context, tenant: Tenant, key: str) -> Response:
    """Nothing more is delivered until it is resumed; deliveries under way go on. Safe to repeat."""
    await context.store.pause(_store_key(tenant, key))
    return Response()


@router.post("/flowControl/{key}/resume", summary="Resume a key", response_class=Response)
async def resume_key(context: Context, tenant: Tenant, key: str) -> Response:
    """Safe to repeat."""
    await context.store.resume(_store_key(tenant, key))
    return Response()


@router.post("/flowControl/{key}/pin", summary="Pin the limits of a key", response_class=Response)
async def pin_key(
    context: Context,
    tenant: Tenant,
    key: str,
    parallelism: _Limit = None,
    rate: _Limit = None,
    period: Annotated[int | None, Query(ge=1, le=MAX_PERIOD_S)] = None,
) -> Response:
    """They take the place of those that messages bring; the limit that is left out stays. Safe to repeat.

    A key that is not known is made. `period` is in seconds.
    """
    if parallelism is None and rate is None:
        raise InputError("there is nothing to pin; give 'parallelism', 'rate' or both", status=400)
    if period is not None and rate is None:
        raise InputError("belongs to a rate", option="period", want="give the rate, too", status=400)
    # As the rates of messages: all starts of a period may come at its beginning.
    limits = FlowControl(
        key=_store_key(tenant, key), parallelism=parallelism, rate=rate, period=period or 1, burst=rate or 1
    )
    await context.store.pin(limits)
    return Response()


@router.post("/flowControl/{key}/unpin", summary="Unpin the limits of a key", response_class=Response)
async def unpin_key(
    context: Context, tenant: Tenant, key: str, parallelism: bool = False, rate: bool = False
) -> Response:
    """Those of its latest message are in force again. Safe to repeat."""
    if not parallelism and not rate:
        raise InputError("there is nothing to unpin; send 'parallelism=true', 'rate=true' or both", status=400)
    await context.store.unpin(_store_key(tenant, key), parallelism=parallelism, rate=rate)
    return Response()


@router.post("/flowControl/{key}/resetRate", summary="Begin the rate of a key anew", response_class=Response)
@router.post("/flowControl/{key}/reset", include_in_schema=False, response_class=Response)
async def reset_rate(context: Context, tenant: Tenant, key: str) -> Response:
    """No start counts any more. Pins and the pause stay. Safe to repeat."""
    await context.store.reset(_store_key(tenant, key), starts_only=True)
    return Response()


def _store_key(tenant: str, key: str) -> str:
    return store_flow_key(tenant, check_name(key, "key"))


async def _status(context: ServerContext, tenant: str, key: str) -> FlowStatus:
    found = [*await context.store.flows([_store_key(tenant, key)])] or await _idle_status(context, tenant, key)
    if not found:
        raise NotFoundError(f"there is no flow-control key '{key}'; publish a message with it, or pin it")
    return found[0]


async def _idle_status(context: ServerContext, tenant: str, key: str) -> list[FlowStatus]:
    """The status of a key that the store has forgotten, since nothing uses it: the limits are those in the log."""
    before, looked = None, 0
    while looked < _LOOKED_BACK and (page := await context.wire.log_entries(tenant, before=before, limit=_PAGE)):
        for logged in page:
            # Most entries are passed over without reading their JSON.
            if logged.entry.state == "CREATED" and key in logged.entry.detail:
                about: Mapping[str, Any] = from_json(logged.entry.detail)
                if about.get("flowControlKey") == key:
                    limits = FlowControl(
                        parallelism=about.get("parallelism"), rate=about.get("rate"), period=about.get("period", 1)
                    )
                    return [FlowStatus(limits, False, False, False, in_use=0, waiting=0, parked_until=0)]
        before, looked = page[-1].key, looked + len(page)
    return []


def _counted_starts(status: FlowStatus, now: int) -> tuple[int, int]:
    """The number of starts that count against the rate at `now`, and the time (ms) at which their period began."""
    limits = status.limits
    rate = limits.rate
    if rate is None:
        return 0, 0
    whole = FlowControl.of_ms(None, None, rate, limits.period_ms, burst=rate)
    count = rate - admit(whole, FlowState(next_start=status.next_start), now=now, want=rate).count
    # A period later all of them are allowed again.
    return count, int(status.next_start - limits.interval_ms) if count else 0
