"""The public URL of an app and its functions, and the validation of URLs."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from batchflow.core.call import printable_url
from batchflow.core.failure_functions import FAILURE_URL_HEADER
from batchflow.errors import ConfigurationError
from batchflow.serve.validation import format_value, is_encodable, type_with_article

_HOST = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#:@]*(?::[0-9]*)?(?:[/?#]|$)")
_UP_TO_HOST = re.compile(r"^((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?.*@", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_URL = 2_048
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


def format_url(url: object) -> str:
    """Format a URL that is refused for an error message, without the credentials and the query in it."""
    if isinstance(url, str):
        return format_value(without_credentials(url))
    # The repr of a URL object may have a password.
    return format_value(url) if url is None or isinstance(url, (int, float)) else type_with_article(url)


def without_credentials(url: str) -> str:
    """Return a URL, which may be invalid, without the credentials and the query in it."""
    shown = printable_url(url)
    # A password may have a slash or a question mark: then the part before it does not look like a host.
    return shown if _HOST.match(shown) else printable_url(_UP_TO_HOST.sub(r"\1", url))


def is_absolute_url(url: object) -> bool:
    """Return whether `url` is an absolute HTTP URL."""
    if not isinstance(url, str) or not is_encodable(url) or url != url.strip() or _CONTROL_CHARACTER.search(url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def check_url(option: str, value: object, *, no_query: bool = True) -> None:
    """Raise `ConfigurationError` unless `value` is an absolute URL or None.

    With `no_query` the URL must end with its path, since more is appended to it.
    """
    if value is None:
        return
    if not is_absolute_url(value) or " " in cast("str", value):
        raise ConfigurationError(
            option=option, got=format_url(value), want="write an absolute URL, such as https://app.example.com"
        )
    if len(cast("str", value)) > _MAX_URL:
        raise ConfigurationError(f"is longer than {_MAX_URL:,} characters", option=option, want="write a shorter URL")
    if no_query and ("?" in cast("str", value) or "#" in cast("str", value)):
        raise ConfigurationError(option=option, got=format_url(value), want="write it without a query and a fragment")


def origin_of(url: str) -> str | None:
    """Return the origin of a URL in its one form: in lower case, without the port of its scheme; None without one."""
    try:
        parts = urlsplit(url)
        scheme, name, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in _DEFAULT_PORTS or not name:
        return None
    host = f"[{name}]" if ":" in name else name.rstrip(".")
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


ROOT_HEADER = "batchflow-root"
"""The header of a run that was started over HTTP: the base URL of the app's webhooks in that request.

It has only the path where the request named a host that may not be the app's.
"""


_OWN_HEADERS = frozenset({ROOT_HEADER, FAILURE_URL_HEADER})


def user_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers that the trigger set, without batchflow's own."""
    if _OWN_HEADERS.isdisjoint(headers):
        return headers
    return {name: value for name, value in headers.items() if name not in _OWN_HEADERS}


class PublicUrlUnknown(ConfigurationError):
    """Nothing says at which URL the app is reached, and this needs it."""

    status = 503


@dataclass(slots=True)
class RouterPath:
    """The prefix of an app's router, set when the app starts; None until then, and in processes without the app.

    While a test plays the app, `url_of_test` is the URL of its router, whatever else is set.
    """

    path: str | None = None
    url_of_test: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicUrl:
    """The public URL of a function, from its options or the variables of `env`.

    `url` is that of the function at `route`, `base_url` that of the router, and `router` the router's path. `hooks`
    makes the URL of a webhook from its token, where the app does not serve it.

    Raises:
        ConfigurationError: an option or a variable does not hold an absolute URL.
    """

    route: str = ""
    url: str | None = None
    base_url: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    router: RouterPath = field(default_factory=RouterPath)
    hooks: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        check_url("url", self.url)
        check_url("base_url", self.base_url)
        # Without a route it is a default created on import, where an invalid variable must not raise.
        if self.route:
            for name in ("UPSTASH_WORKFLOW_URL", "APP_URL", "BATCHFLOW_APP_URL"):
                self._env_url(name)

    def resolve(self, headers: Mapping[str, str]) -> str:
        """Return the base URL of the app's endpoints, from the first of these that is set.

        1. `url` without the route
        2. `base_url`, then UPSTASH_WORKFLOW_URL; the router's path is added to one without a path
        3. the URL of the HTTP request that started the run
        4. APP_URL with the router's path

        Raises:
            ConfigurationError: none is set; or only APP_URL is, without a path, and the router's path is not known.
        """
        if self.router.url_of_test is not None:
            return self.router.url_of_test
        if self.url is not None:
            return self.url.rstrip("/").removesuffix(self.route)
        seen = headers.get(ROOT_HEADER)
        path = self.router.path if seen is None else urlsplit(seen).path.rstrip("/")
        base = self.base_url or self._env_url("UPSTASH_WORKFLOW_URL")
        if base is not None:
            whole = base.rstrip("/")
            return whole if urlsplit(whole).path else whole + (path or "")
        if seen is not None and not seen.startswith("/"):
            return seen
        app_url = self._env_url("APP_URL") or self._env_url("BATCHFLOW_APP_URL")
        if app_url is None:
            why = "" if seen is None else ", and the request that started this run named a host that may not be its own"
            raise PublicUrlUnknown(
                f"the public URL of this app is not known{why}; set APP_URL, or base_url= at @flow.serve, "
                f"to where its router is reached from outside"
            )
        if path is not None:
            return router_url(app_url, path)
        if not urlsplit(app_url).path:
            raise PublicUrlUnknown(
                f"APP_URL is {app_url!r}, and this process does not know the path of the router there; write it too: "
                f"{app_url}/api for one that is included under /api, {app_url}/ for one without a prefix"
            )
        return app_url.rstrip("/")

    def webhooks(self, headers: Mapping[str, str]) -> Callable[[str], str]:
        """Return the function that makes the URL of a webhook from its token, for a run with these headers.

        Raises:
            ConfigurationError: see `resolve`.
        """
        if self.hooks is not None:
            return self.hooks
        root = self.resolve(headers)
        return lambda token: f"{root}/webhooks/{token}"

    def url_of(self, route: str, headers: Mapping[str, str]) -> str:
        """Return the URL of an endpoint, for a run with these headers; `route` if the app's public URL is not known."""
        try:
            return self.resolve(headers) + route
        except ConfigurationError:
            return route

    def _env_url(self, name: str) -> str | None:
        value = self.env.get(name) or None
        check_url(name, value)
        return value


NO_PUBLIC_URL = PublicUrl()


def router_url(app_url: str, path: str) -> str:
    """Return the URL of the router at `path`. `app_url` may include the path or end before it."""
    base = app_url.rstrip("/")
    return base if urlsplit(base).path.endswith(path) else base + path
