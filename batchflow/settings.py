"""Settings from the environment: `BATCHFLOW_*`, `APP_URL` for the router's public URL; the store that they name."""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from batchflow.core.duration import Duration, format_duration, to_ms
from batchflow.core.ports import Clock
from batchflow.core.secrets import printable_store_url
from batchflow.core.store import Ledger, Store
from batchflow.engine.push_settings import PushSettings
from batchflow.errors import ConfigurationError
from batchflow.serve.app_url import check_url, origin_of, without_credentials
from batchflow.serve.validation import format_value

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _span(value: Duration) -> timedelta:
    # Variables are text: a bare number in it is seconds, as everywhere else.
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    try:
        return timedelta(milliseconds=to_ms(value, option="it"))
    except ConfigurationError as error:
        longest = " of at most 36500d" if "longer" in str(error) else ""
        raise ValueError(f"write a duration{longest}, such as '30s' or '7d'") from error


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "a bool")
    return value


_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,80}")


def _name(value: object) -> object:
    if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ValueError("write 1 to 80 letters, digits, '-', '_', '.', ':' and '@'")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _root(value: str | None) -> str | None:
    try:
        check_url("app_url", value or None)
    except ConfigurationError as error:
        raise ValueError(error.want) from error
    return value or None


_TOKEN = re.compile(r"[!-~]+")


def _token(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("write letters, digits and signs of ASCII, without spaces, or do not set it")
    return value


def _signing_key(value: SecretStr | None) -> SecretStr | None:
    return value if value is not None and value.get_secret_value() else None


def _allowed(value: str | None) -> str | None:
    _push_settings(allow=value or "")
    return value or None


def _egress(value: SecretStr | None) -> SecretStr | None:
    text = value.get_secret_value() if value is not None else ""
    _push_settings(egress=text)
    return value if text else None


def _push_settings(*, allow: str = "", egress: str = "") -> PushSettings:
    try:
        return PushSettings.of(allow=allow, egress=egress)
    except ConfigurationError as error:
        raise ValueError(error.want) from error


def _origins(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [it.strip() for it in value.split(",") if it.strip()]


def _origin(value: str) -> str:
    origin = origin_of(value)
    if origin is None or urlsplit(value).path.strip("/") or "?" in value or "#" in value:
        raise ValueError("write origins such as https://app.example.com, joined by commas")
    return origin


Count = Annotated[int, BeforeValidator(_whole)]
"""A whole number."""

Span = Annotated[timedelta, BeforeValidator(_span)]
"""A duration: seconds, or a text such as "10s" or "7d"."""


class Settings(BaseSettings):
    """The settings of an app. Each can be set by an environment variable, e.g. `BATCHFLOW_CONCURRENCY=50`."""

    model_config = SettingsConfigDict(env_prefix="BATCHFLOW_", extra="ignore", frozen=True, hide_input_in_errors=True)

    url: str = Field(
        default="sqlite:///batchflow.db",
        description="where state lives: sqlite:///PATH, sqlite:// for memory, or redis://HOST:PORT",
    )
    store: str | None = Field(
        default=None,
        description="where the state of batches lives if QStash is the engine: redis://HOST:PORT or sqlite:///PATH",
    )
    ledger: str | None = Field(
        default=None,
        description="where the ledger of processed items is kept, if not in the store: redis://HOST:PORT",
    )
    namespace: str = Field(default="batchflow", description="separates programs that share a Redis server")
    concurrency: Count = Field(default=256, ge=1, le=100_000, description="runs at the same time in one process")
    worker_name: Annotated[str | None, BeforeValidator(_name)] = Field(
        default=None, description="the prefix of the names of workers; by default the machine's name"
    )
    threads: Count = Field(default=40, ge=1, le=1_000, description="threads that sync hooks and functions run in")
    grace: Span = Field(default=timedelta(seconds=10), description="how long a stop waits for running work")
    retention: Span = Field(
        default=timedelta(days=7), gt=timedelta(0), description="how long ended batches, runs and dead letters are kept"
    )
    synchronous: Annotated[Literal["FULL", "NORMAL"], BeforeValidator(_upper)] = Field(
        default="FULL", description="SQLite's PRAGMA synchronous"
    )
    max_value: Count = Field(
        default=1_048_576,
        ge=1_024,
        le=268_435_456,
        description="the largest payload, result or event that is stored, in bytes of JSON",
    )
    max_body: Count | None = Field(
        default=None,
        ge=1_024,
        description="the largest request body the endpoints take, in bytes; by default as much as a value may have",
    )
    max_ids: Count = Field(default=10_000, ge=1, description="the most ids that one request may name")
    token: Annotated[SecretStr | None, AfterValidator(_token)] = Field(
        default=None, description="the secret that requests send as 'Authorization: Bearer …', to all but webhooks"
    )
    admin_access: Literal["loopback", "app"] = Field(
        default="loopback",
        description="without a token: loopback lets the routes of operators answer this machine alone, "
        "app leaves them to the app's own dependencies",
    )
    allowed_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_origins)
    ] = Field(default=(), description="other origins whose pages may send requests that change something")
    trust_forwarded_prefix: bool = Field(
        default=False, description="take the part of the path that a proxy cuts off from X-Forwarded-Prefix"
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] | None, BeforeValidator(_upper)] = (
        Field(default=None, description="what is logged; by default INFO, or as the app has configured its logging")
    )
    always_replay: bool = Field(
        default=False, description="suspend every run after each of its steps, to exercise replay all the time"
    )
    qstash_current_signing_key: Annotated[SecretStr | None, AfterValidator(_signing_key)] = Field(
        default=None,
        validation_alias=AliasChoices("qstash_current_signing_key", "QSTASH_CURRENT_SIGNING_KEY"),
        description="the key that signs requests to failure URLs, as QStash signs its own",
    )
    qstash_next_signing_key: Annotated[SecretStr | None, AfterValidator(_signing_key)] = Field(
        default=None,
        validation_alias=AliasChoices("qstash_next_signing_key", "QSTASH_NEXT_SIGNING_KEY"),
        description="the key that QStash signs with after the next rotation",
    )
    qstash_token: Annotated[SecretStr | None, AfterValidator(_signing_key)] = Field(
        default=None,
        validation_alias=AliasChoices("qstash_token", "QSTASH_TOKEN"),
        description="the token of QStash, if that is the engine",
    )
    qstash_url: Annotated[str | None, AfterValidator(_root)] = Field(
        default=None,
        validation_alias=AliasChoices("qstash_url", "QSTASH_URL"),
        description="the address of QStash; by default that of hosted QStash",
    )
    push_allow: Annotated[str | None, AfterValidator(_allowed)] = Field(
        default=None,
        description="what the server delivers to beside public addresses: loopback, private, or networks, "
        "joined by commas",
    )
    egress: Annotated[SecretStr | None, AfterValidator(_egress)] = Field(
        default=None,
        description="the proxy through which the server delivers, and other addresses for hosts: "
        "proxy=http://HOST:PORT,api.example.com=http://HOST:PORT",
    )
    app_url: Annotated[str | None, AfterValidator(_root)] = Field(
        default=None,
        validation_alias=AliasChoices("app_url", "APP_URL", "BATCHFLOW_APP_URL"),
        description="the public URL of the router, in full, or the part before its prefix",
    )

    @property
    def push(self) -> PushSettings:
        """The rules for the addresses that posts are pushed to."""
        egress = self.egress.get_secret_value() if self.egress is not None else ""
        return PushSettings.of(allow=self.push_allow or "", egress=egress)

    @property
    def display_url(self) -> str:
        """The URL without its password, for messages and logs."""
        return printable_store_url(self.url)

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        return [(name, _printable(name or "", value)) for name, value in super().__repr_args__()]

    @classmethod
    def load(cls, **values: object) -> "Settings":
        """The settings of the environment, overridden by `values`.

        Raises:
            ConfigurationError: a variable has an invalid value; the message names the variable.
        """
        values = {name: value for name, value in values.items() if value is not None}
        try:
            return cls.model_validate({**cls().model_dump(), **values}) if values else cls()
        except ValidationError as error:
            raise ConfigurationError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]).lower()
    # The error does not tell which of its two names was set.
    variable = "APP_URL or BATCHFLOW_APP_URL" if name == "app_url" else f"BATCHFLOW_{name.upper()}"
    if name.startswith("qstash_"):
        variable = name.upper()
    # The input may be a secret, or a part of one.
    shown = "have this value" if name in ("token", "egress") else f"be {_format(name, first['input'])}"
    return f"the setting '{name}' ({variable}) cannot {shown}: {_want(name, first)}"


def _want(name: str, error: "ErrorDetails") -> str:
    """The values that a setting takes, as an instruction."""
    match error["type"]:
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case "bool_parsing" | "bool_type":
            return "write true or false"
        case "literal_error":
            expected = str(error.get("ctx", {}).get("expected"))
            return "write " + expected.replace("'", "")
        case "greater_than":
            return "write a duration of more than nothing, such as '7d'"
        case _:
            return _range_of(name)


def _range_of(name: str) -> str:
    limits: dict[str, int] = {}
    for constraint in Settings.model_fields[name].metadata:
        limits |= {kind: getattr(constraint, kind) for kind in ("ge", "le") if hasattr(constraint, kind)}
    least, most = limits.get("ge"), limits.get("le")
    if least is None:
        return "write a text"
    return f"write a whole number {f'of {least:,} or more' if most is None else f'from {least:,} to {most:,}'}"


def _format(name: str, value: object) -> str:
    if isinstance(value, timedelta):
        return repr(format_duration(round(value.total_seconds() * 1000)))
    return format_value(_printable(name, value))


def _printable(name: str, value: object) -> object:
    """The value of a setting as it may be shown."""
    if isinstance(value, str) and name in ("url", "store", "ledger"):
        return printable_store_url(value)
    return without_credentials(value) if isinstance(value, str) and name == "app_url" else value


_REDIS = frozenset({"redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"})


def open_store(settings: Settings, clock: Clock) -> Store:
    """The store of the URL in the settings.

    Raises:
        ConfigurationError: the URL names no store.
    """
    scheme, _, rest = settings.url.partition("://")
    if scheme == "qstash" and "://" in settings.url:
        if rest:
            raise ConfigurationError(
                f"'{settings.display_url}' names no store; write qstash://, and the address in QSTASH_URL"
            )
        # Without a store for batches nothing is in it: runs of functions live in QStash.
        return open_store(settings.model_copy(update={"url": settings.store or "sqlite://", "store": None}), clock)
    if scheme == "sqlite" and "://" in settings.url:
        from batchflow.stores.sqlite import SqliteStore

        path = rest.removeprefix("/") if not rest.startswith("//") else rest[1:]
        return SqliteStore(path or ":memory:", clock=clock, synchronous=settings.synchronous)
    if scheme in _REDIS and "://" in settings.url:
        from batchflow.stores.redis import RedisStore

        return RedisStore(settings.url, namespace=settings.namespace)
    raise ConfigurationError(
        f"'{settings.display_url}' names no store; write sqlite:///PATH (two more slashes for an absolute path), "
        "sqlite:// or redis://HOST:PORT"
    )


def open_ledger(settings: Settings) -> Ledger | None:
    """The ledger of the URL in the settings; None without one.

    Raises:
        ConfigurationError: the URL names no ledger.
    """
    if settings.ledger is None:
        return None
    scheme, found, _ = settings.ledger.partition("://")
    if scheme in _REDIS and found:
        from batchflow.stores.redis import RedisLedger

        return RedisLedger(settings.ledger, namespace=settings.namespace)
    raise ConfigurationError(f"'{printable_store_url(settings.ledger)}' names no ledger; write redis://HOST:PORT")
