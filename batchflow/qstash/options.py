"""The options of QStash as an engine."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflow.core.duration import Duration, to_ms
from batchflow.serve.app_url import check_url

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class QStash:
    """QStash as the engine of `@flow.serve` functions: `Batchflow(QStash())`, or BATCHFLOW_URL=qstash://.

    Options that are None come from the environment: `url` from QSTASH_URL (hosted QStash), `token` from QSTASH_TOKEN,
    the signing keys from QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY. With `verify=False` the endpoints
    answer requests that QStash has not signed too. `clock_tolerance` is how far the clocks of the app and of QStash may
    be apart. Without `telemetry` requests do not say that batchflow makes them. `transport` replaces the network.

    Raises:
        ConfigurationError: the URL or the tolerance is not valid.
    """

    url: str | None = None
    token: str | None = field(default=None, repr=False)
    current_signing_key: str | None = field(default=None, repr=False)
    next_signing_key: str | None = field(default=None, repr=False)
    verify: bool = True
    clock_tolerance: Duration = 0
    telemetry: bool = True
    transport: "httpx.AsyncBaseTransport | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_url("url", self.url)
        to_ms(self.clock_tolerance, option="clock_tolerance")
