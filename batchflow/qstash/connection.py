"""The connection of an app to QStash: the accounts of its functions, from options, environments and settings."""

import platform
from base64 import b64decode
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Literal

from pydantic import SecretStr
from pydantic_core import from_json

from batchflow.core.ports import Clock
from batchflow.core.schedule import as_schedule
from batchflow.core.secrets import printable_store_url
from batchflow.core.store import Store
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.deliveries import QStashDeliveries
from batchflow.qstash.directory import Directory
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.options import AccountOptions, QStash, check_address
from batchflow.qstash.receiver import Receiver, check_secret
from batchflow.qstash.relay import RelaySchedule
from batchflow.qstash.rest import QStashRest
from batchflow.serve.app_url import PublicUrl, RouterPath
from batchflow.serve.endpoint import Endpoint
from batchflow.settings import Settings, open_store
from batchflow.wire.envelope import HeaderPairs

DEFAULT_URL = "https://qstash.upstash.io"
"""The address of hosted QStash."""

_Value = Literal["url", "token", "current_signing_key", "next_signing_key"]
_KEYS: Sequence[_Value] = ("current_signing_key", "next_signing_key")
_TITLES: Mapping[_Value, str] = {
    "token": "the token of QStash",
    "current_signing_key": "the current signing key of QStash",
    "next_signing_key": "the next signing key of QStash",
}


def store_of(options: QStash, settings: Settings, clock: Clock) -> Store:
    """The store of batches; one in memory, for apps without batches, if there is none.

    Raises:
        ConfigurationError: the URL names no store.
    """
    if options.store is not None and not isinstance(options.store, str):
        return options.store
    url = options.store or settings.store or "sqlite://"
    if url.startswith("qstash:"):
        raise ConfigurationError(
            f"the store {printable_store_url(url)!r} is QStash, which does not keep the state of batches; "
            f"write redis://HOST:PORT or sqlite:///PATH"
        )
    try:
        return open_store(settings.model_copy(update={"url": url}), clock)
    except ConfigurationError as error:
        given = "BATCHFLOW_STORE" if options.store is None else "QStash(store=…)"
        raise ConfigurationError(f"{given}: {error}") from error


def connect(
    engine: Engine, options: QStash, settings: Settings, endpoints: Mapping[str, Endpoint], router: RouterPath
) -> QStashDeliveries:
    """Connect a `QStashEngine`, whose app has these endpoints; returns what answers QStash's requests.

    Raises:
        ConfigurationError: something is missing; the sentence has the line to write.
    """
    assert isinstance(engine, QStashEngine)
    accounts = Accounts(options, settings)
    engine.connect(Directory(accounts.find(AccountOptions()), endpoints, PublicUrl(router=router)))
    relay = as_schedule(options.relay_cron, "relay_cron")
    engine.relay_schedule = RelaySchedule(None if relay is None else relay.times)
    engine.has_store = options.store is not None or bool(settings.store)
    return QStashDeliveries(engine, endpoints, accounts.find)


class Accounts:
    """The QStash accounts of an app: what the options of a function leave open is the app's."""

    def __init__(self, app: QStash, settings: Settings) -> None:
        self._app = app
        self._settings: Mapping[_Value, str | None] = {
            "url": settings.qstash_url,
            "token": _revealed(settings.qstash_token),
            "current_signing_key": _revealed(settings.qstash_current_signing_key),
            "next_signing_key": _revealed(settings.qstash_next_signing_key),
        }
        self._rests: dict[object, QStashRest] = {}

    def find(self, own: AccountOptions) -> QStashAccount:
        """The account of a function with these options.

        Raises:
            ConfigurationError: something is missing; the sentence has the line to write.
        """
        client = own.client or self._app
        url, token = self._address(own)
        check_address("QSTASH_URL", url)
        transport = client.transport or self._app.transport
        rest = self._rests.setdefault((url, token, transport), QStashRest(url, token, transport=transport))
        receiver = own.receiver
        if receiver == "app":
            receiver = self._receiver(client, own) if client.verify else None
        telemetry = _telemetry() if client.telemetry and own.telemetry else ()
        return QStashAccount(rest, receiver, _user_of(token), telemetry)

    def _address(self, own: AccountOptions) -> tuple[str, str]:
        """The URL and the token of an account."""
        return (self._value("url", own) or DEFAULT_URL).rstrip("/"), self._required("token", own)

    def _receiver(self, client: QStash, own: AccountOptions) -> Receiver:
        is_other = self._address(own) != self._address(AccountOptions())
        if is_other and not all(_own_value(it, own) for it in _KEYS):
            raise ConfigurationError(
                "this function has a token or an address of QStash that is not the app's, and no signing keys for it; "
                "write receiver=Receiver(current_signing_key=…, next_signing_key=…), with the keys of that account"
            )
        return Receiver(
            current_signing_key=self._required("current_signing_key", own),
            next_signing_key=self._required("next_signing_key", own),
            clock_tolerance=client.clock_tolerance,
        )

    def _value(self, name: _Value, own: AccountOptions) -> str | None:
        return _own_value(name, own) or getattr(self._app, name) or self._settings[name]

    def _required(self, name: _Value, own: AccountOptions) -> str:
        if not (value := self._value(name, own)):
            verify = "" if name == "token" else "; QStash(verify=False) answers unsigned requests too"
            raise ConfigurationError(
                f"{_TITLES[name]} is missing; write QSTASH_{name.upper()}=… into the environment, "
                f"or QStash({name}=…){verify}"
            )
        check_secret(f"QSTASH_{name.upper()}", value)
        return value


def _own_value(name: _Value, own: AccountOptions) -> str | None:
    of_client: str | None = None if own.client is None else getattr(own.client, name)
    return of_client or own.variables.get(f"QSTASH_{name.upper()}")


def _revealed(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _user_of(token: str) -> str | None:
    """The user that a token names, as the URLs of webhooks have it; None if it names none."""
    try:
        match from_json(b64decode(token, validate=True)):
            case {"UserID": str(user)}:
                return user
            case _:
                return None
    except ValueError:
        return None


def _telemetry() -> HeaderPairs:
    return (
        ("upstash-telemetry-framework", "fastapi"),
        ("upstash-telemetry-runtime", f"python@v{platform.python_version()}"),
        ("upstash-telemetry-sdk", f"batchflow@{version('batchflow')}"),
    )
