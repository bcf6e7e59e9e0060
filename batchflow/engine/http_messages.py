"""The messages that any worker sends over HTTP: the calls of runs, and callbacks."""

from collections.abc import Mapping
from types import MappingProxyType

from batchflow.core.call import CALL_DESTINATION
from batchflow.core.failure_functions import FAILURE_URL_DESTINATION
from batchflow.core.message import NOTIFICATION_DESTINATION
from batchflow.core.ports import Handler, LogNames
from batchflow.core.store import Reads
from batchflow.engine.callbacks import CallbackCaller, CallbackSettings
from batchflow.engine.caller import HttpCaller
from batchflow.engine.failure_url import FailureUrls
from batchflow.engine.notifications import Notifications

HTTP_LOG_NAMES: Mapping[str, LogNames] = MappingProxyType(
    {
        CALL_DESTINATION: LogNames("batchflow:call"),
        FAILURE_URL_DESTINATION: LogNames("batchflow:failure", "The failure URL was not reached"),
        NOTIFICATION_DESTINATION: LogNames("batchflow:notification", "The notify_url of a batch was not reached"),
    }
)
"""The words of the log lines about what is sent over HTTP."""


def http_callers(caller: HttpCaller, store: Reads, settings: CallbackSettings) -> Mapping[str, Handler]:
    """The handlers of these messages, by destination."""
    return {
        CALL_DESTINATION: caller,
        FAILURE_URL_DESTINATION: CallbackCaller(FailureUrls(store, settings), caller, settings),
        NOTIFICATION_DESTINATION: CallbackCaller(Notifications(store, settings), caller, settings),
    }
