"""The options of QStash: as an engine, and those of one function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from batchflow.core.duration import Duration, to_ms
from batchflow.core.schedule import as_schedule
from batchflow.core.store import Store
from batchflow.errors import ConfigurationError
from batchflow.qstash.receiver import Receiver, check_secret
from batchflow.serve.app_url import check_url
from batchflow.serve.plugged import check_plugged
from batchflow.serve.validation import check_flag, type_with_article

if TYPE_CHECKING:
    import httpx

Account = TypeVar("Account")

ON_QSTASH = "qstash://"
"""The URL of the settings of an app on QStash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QStash:
    """QStash as the engine of an app: `Batchflow(QStash())`, or BATCHFLOW_URL=qstash://.

    QStash keeps the runs of `@flow.serve` functions. The state of batches is in `store`, a URL such as redis://HOST:PORT
    or a store object (None: BATCHFLOW_STORE), and QStash calls the app for each of their messages. So that nothing is
    left undone, a schedule of QStash calls the app too, by default each five minutes (`relay_cron`; None: no schedule).

    Options that are None come from the environment: `url` from QSTASH_URL (hosted QStash), `token` from QSTASH_TOKEN,
    the signing keys from QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY. With `verify=False` the endpoints
    answer requests that QStash has not signed too. `clock_tolerance` is how far the clocks of the app and of QStash may
    be apart. Without `telemetry` requests do not say that batchflow makes them. `transport` replaces the network.

    Raises:
        ConfigurationError: an option is not valid; secrets are not shown.
    """

    url: str | None = None
    token: str | None = field(default=None, repr=False)
    current_signing_key: str | None = field(default=None, repr=False)
    next_signing_key: str | None = field(default=None, repr=False)
    verify: bool = True
    clock_tolerance: Duration = 0
    telemetry: bool = True
    store: "str | Store | None" = field(default=None, repr=False)
    relay_cron: str | None = "*/5 * * * *"
    transport: "httpx.AsyncBaseTransport | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_address("url", self.url)
        for option in ("token", "current_signing_key", "next_signing_key"):
            if (secret := getattr(self, option)) is not None:
                check_secret(option, secret)
        check_flag("verify", self.verify)
        to_ms(self.clock_tolerance, option="clock_tolerance")
        check_flag("telemetry", self.telemetry)
        _check_store(self.store)
        as_schedule(self.relay_cron, "relay_cron")
        check_plugged("transport", self.transport, "handle_async_request", "write an httpx.AsyncBaseTransport")


def check_address(option: str, url: str | None) -> None:
    """Raise `ConfigurationError` unless `url` may be the address of QStash, or None. Messages show it."""
    check_url(option, url)
    if url is not None and "@" in urlsplit(url).netloc:
        raise ConfigurationError(
            "has a user or a password", option=option, want="leave them out: QStash knows the app by its token"
        )


def _check_store(store: object) -> None:
    want = "write redis://HOST:PORT or sqlite:///PATH, a store object, or leave it out"
    if isinstance(store, str):
        # The URL may have a password: what else is wrong with it is said without that where it is opened.
        if not store.strip():
            raise ConfigurationError("is empty", option="store", want=want)
    else:
        check_plugged("store", store, "claim_one", want)


class UpstashClient(Protocol):
    """A `QStash` or an `AsyncQStash` of Upstash's package `qstash`."""

    http: Any


class UpstashReceiver(Protocol):
    """A `Receiver` of Upstash's package `qstash`."""

    def verify(self, *, signature: str, body: str, url: str | None = None, clock_tolerance: int = 0) -> None:
        """Verify a request."""
        ...


class AccountOptions(NamedTuple):
    """The options of one function that name its QStash account.

    What `client` leaves open is in `variables`, named as in the environment. The `receiver` None verifies nothing.
    """

    client: QStash | None = None
    variables: Mapping[str, str] = {}
    receiver: Receiver | Literal["app"] | None = "app"
    telemetry: bool = True

    def __repr__(self) -> str:
        # The variables have secrets.
        return f"AccountOptions({self.client!r})"


def find_account(
    find: Callable[[AccountOptions], Account] | None,
    qstash_client: QStash | UpstashClient | None,
    receiver: Receiver | UpstashReceiver | Literal["app"] | None,
    env: Mapping[str, str] | None,
    disable_telemetry: bool,
) -> Account | None:
    """The account that `find` returns for the options of a function; None on other engines, which do not `find`.

    Raises:
        ConfigurationError: an option is not what it takes, or is one of functions on QStash.
    """
    check_flag("disable_telemetry", disable_telemetry)
    if find is None:
        # Without QStash there is no telemetry either.
        for option, given in (("qstash_client", qstash_client is not None), ("receiver", receiver != "app")):
            if given:
                raise ConfigurationError(
                    "is of functions on QStash", option=option, want="leave it out, or make the app Batchflow(QStash())"
                )
        return None
    variables = dict(env or {})
    if qstash_client is not None and not isinstance(qstash_client, QStash):
        variables |= _variables_of(qstash_client)
        qstash_client = None
    if not isinstance(receiver, Receiver | None) and receiver != "app":
        receiver = _receiver_of(receiver)
    own = cast("Receiver | Literal['app'] | None", receiver)
    return find(AccountOptions(qstash_client, variables, own, telemetry=not disable_telemetry))


def _variables_of(client: UpstashClient) -> dict[str, str]:
    # The package has no public way to read them.
    http = getattr(client, "http", None)
    url, token = getattr(http, "_base_url", None), getattr(http, "_token", None)
    if not isinstance(url, str) or not isinstance(token, str):
        raise ConfigurationError(
            option="qstash_client", got=type_with_article(client), want="write QStash(url=…, token=…)"
        )
    return {"QSTASH_URL": url, "QSTASH_TOKEN": token.removeprefix("Bearer ")}


def _receiver_of(receiver: UpstashReceiver) -> Receiver:
    keys = [getattr(receiver, f"_{name}_signing_key", None) for name in ("current", "next")]
    if not all(isinstance(it, str) for it in keys):
        want = "write Receiver(current_signing_key=…, next_signing_key=…), or None for no verification"
        raise ConfigurationError(option="receiver", got=type_with_article(receiver), want=want)
    current, following = cast("list[str]", keys)
    return Receiver(current_signing_key=current, next_signing_key=following)
