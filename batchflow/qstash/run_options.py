"""The options of a run that QStash keeps as they are, and the refusal of the rest."""

from collections.abc import Mapping
from typing import Any

from batchflow.core.duration import format_duration
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import SCHEDULE_ID_HEADER
from batchflow.errors import InputError
from batchflow.wire.headers import NOT_FORWARDED
from batchflow.wire.publish_headers import MAX_PERIOD_S, is_name

SCHEDULE_ID = SCHEDULE_ID_HEADER.lower()
"""The header with the id of a schedule, of its requests and of the runs that they start."""

VERSION = "upstash-workflow-sdk-version"
UNKNOWN_SDK = "upstash-workflow-unknown-sdk"
CALLBACK = "upstash-workflow-callback"
FAILURE = "upstash-workflow-failure-callback"
OF_QSTASH = frozenset({VERSION, UNKNOWN_SDK, CALLBACK, FAILURE})
"""Headers of which each request of QStash about a run has one."""

LONGEST_RETRY_WAIT_MS = 86_400_000
"""QStash waits no longer before a retry."""


def check_run_options(
    flow: FlowControl | None, retry: RetryPolicy | None, label: str | None, headers: Mapping[str, str]
) -> None:
    """Raise `InputError` for an option of a run or a call that QStash does not keep as it is."""
    if flow is not None:
        check_flow(flow)
    if retry is not None and retry.cap_ms > LONGEST_RETRY_WAIT_MS:
        raise InputError(
            f"waits up to {format_duration(retry.cap_ms)} before a retry, and QStash at most a day",
            option="retry",
            want="write RetryPolicy(cap='24h', …) or less",
        )
    if label is not None and not is_name(label):
        raise InputError(option="label", got=repr(label), want="QStash has labels of letters, digits, '-', '_' and '.'")
    lower = {name.lower() for name in headers}
    if lost := sorted(lower - trigger_headers(dict.fromkeys(lower, "")).keys()):
        raise InputError(
            f"has {lost[0]!r}, which QStash, proxies or HTTP set", option="headers", want="give it another name"
        )


def check_call_headers(headers: Mapping[str, str]) -> None:
    """Raise `InputError` for a header that makes a request one about a run.

    A call is signed as a delivery is: to a URL of the app, which a user may have chosen, it would be taken for one.
    """
    if taken := sorted(OF_QSTASH.union([SCHEDULE_ID]).intersection(map(str.lower, headers))):
        raise InputError(
            f"has {taken[0]!r}, by which apps know what QStash sends about a run", option="headers", want="leave it out"
        )


class DeliveredHeaders(dict[str, str]):
    """Headers with names in lower case, as HTTP delivers them; they are found however a name is written."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None, /) -> Any:
        """See `dict`."""
        return super().get(name.lower(), default)


def trigger_headers(headers: Mapping[str, str]) -> DeliveredHeaders:
    """The headers of a delivery that the trigger has set: without those of QStash, of HTTP and of proxies.

    The id of the schedule that has started a run is one of them.
    """
    return DeliveredHeaders(
        (name, value)
        for name, value in headers.items()
        if name == SCHEDULE_ID or (not name.startswith(_OWN) and name not in _NOT_OF_TRIGGERS)
    )


_OWN = ("upstash-", "x-vercel-", "x-forwarded-", "cf-", "cdn-loop", "render-proxy-ttl")
_NOT_OF_TRIGGERS = NOT_FORWARDED | {"content-type", "user-agent", "accept"}


def check_flow(flow: FlowControl) -> None:
    """Raise `InputError` for limits that QStash does not keep as they are."""
    if flow.burst > 1:
        raise InputError(
            f"is {flow.burst}, and QStash has none: all starts of a period may come at its beginning",
            option="burst",
            want="leave it out",
        )
    if flow.rate is not None and (flow.period_ms % 1000 or flow.period_ms > MAX_PERIOD_S * 1000):
        raise InputError(
            option="period", got=repr(flow.period), want="QStash has periods of whole seconds, from 1s to 7d"
        )
