"""Where a served function stands: its environment, and the URL under which it is reached from outside."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from batchflow.errors import ConfigurationError

ROOT_HEADER = "batchflow-root"
"""The header of a run that was started over HTTP: the URL below which the app's endpoints were reached."""

_VARIABLES = ("UPSTASH_WORKFLOW_URL", "APP_URL", "BATCHFLOW_APP_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`url` is the public URL of the function itself, at `route`; `base_url` that of the app."""

    route: str = ""
    url: str | None = None
    base_url: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def public_url(self, headers: Mapping[str, str]) -> str:
        """The URL below which the app's endpoints are reached.

        That is `url` without the route, else `base_url`, UPSTASH_WORKFLOW_URL or APP_URL, else where the request came
        in that started the run. One of the second kind without a path is given that of the request.

        Raises:
            ConfigurationError: none of them is known.
        """
        if self.url is not None:
            return self.url.rstrip("/").removesuffix(self.route)
        seen = headers.get(ROOT_HEADER)
        base = self.base_url or next((self.env[name] for name in _VARIABLES if self.env.get(name)), None)
        if base is None:
            if seen is None:
                raise ConfigurationError(
                    "the public URL of this app is not known; set APP_URL, or base_url= at @flow.serve, "
                    "to where its router is reached from outside"
                )
            return seen
        base = base.rstrip("/")
        if seen is not None and not urlsplit(base).path:
            return base + urlsplit(seen).path
        return base


NOWHERE = Surroundings()


def checked_url(url: str | None, option: str) -> str | None:
    """`url`, or None.

    Raises:
        ConfigurationError: it is no absolute URL.
    """
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"'{option}' cannot be {url!r}; write an absolute URL, such as https://app.example.com"
        )
    return url
