"""The connection of an app to its QStash: from its options and settings to the engine and the deliveries."""

from base64 import b64decode
from collections.abc import Mapping

from pydantic import SecretStr
from pydantic_core import from_json

from batchflow.core.duration import to_ms
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError
from batchflow.qstash.deliveries import QStashDeliveries
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.options import QStash
from batchflow.qstash.receiver import Receiver
from batchflow.qstash.rest import QStashRest
from batchflow.serve.endpoint import Endpoint
from batchflow.settings import Settings

DEFAULT_URL = "https://qstash.upstash.io"
"""The address of hosted QStash."""


def connect(engine: Engine, options: QStash, settings: Settings, endpoints: Mapping[str, Endpoint]) -> QStashDeliveries:
    """Connect a `QStashEngine`, whose served functions have these endpoints; returns what answers QStash's requests.

    Raises:
        ConfigurationError: something is missing; the sentence has the line to write.
    """
    assert isinstance(engine, QStashEngine)
    token = options.token or _revealed(settings.qstash_token)
    if not token:
        raise _missing("the token of QStash", "QSTASH_TOKEN", "token")
    url = options.url or settings.qstash_url or DEFAULT_URL
    engine.connect(QStashRest(url, token, transport=options.transport), endpoints, telemetry=options.telemetry)
    engine.verifies = options.verify
    receiver = _receiver(engine, options, settings) if options.verify else None
    return QStashDeliveries(engine, endpoints, receiver, user=_user_of(token))


def _receiver(engine: QStashEngine, options: QStash, settings: Settings) -> Receiver:
    current = options.current_signing_key or _revealed(settings.qstash_current_signing_key)
    following = options.next_signing_key or _revealed(settings.qstash_next_signing_key)
    if not current:
        raise _missing("the current signing key of QStash", "QSTASH_CURRENT_SIGNING_KEY", "current_signing_key")
    if not following:
        raise _missing("the next signing key of QStash", "QSTASH_NEXT_SIGNING_KEY", "next_signing_key")
    tolerance = to_ms(options.clock_tolerance, option="clock_tolerance") / 1000
    return Receiver((current, following), engine.now, clock_tolerance=tolerance)


def _revealed(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _missing(what: str, variable: str, option: str) -> ConfigurationError:
    verify = "" if option == "token" else "; QStash(verify=False) answers unsigned requests too"
    return ConfigurationError(
        f"{what} is missing; write {variable}=… into the environment, or QStash({option}=…){verify}"
    )


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
