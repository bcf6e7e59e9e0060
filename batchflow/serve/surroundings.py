"""Where a served function stands: its environment, and the URL under which it is reached from outside."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from batchflow.errors import ConfigurationError

ROOT_HEADER = "batchflow-root"
"""The header of a run that was started over HTTP: the URL below which the app's endpoints were reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`url` is the public URL of the function itself, at `route`; `base_url` that of the app."""

    route: str = ""
    url: str | None = None
    base_url: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def public_url(self, headers: Mapping[str, str]) -> str:
        """The URL below which the app's endpoints are reached.

        That is `url` without the route; else `base_url` or UPSTASH_WORKFLOW_URL, with the path of the request that
        started the run where it has none of its own; else where that request came in, as APP_URL has it; else APP_URL.

        Raises:
            ConfigurationError: none of them is known.
        """
        if self.url is not None:
            return self.url.rstrip("/").removesuffix(self.route)
        seen = headers.get(ROOT_HEADER)
        base = (self.base_url or "").rstrip("/") or self._variable("UPSTASH_WORKFLOW_URL")
        if base is not None:
            return base + urlsplit(seen).path if seen is not None and not urlsplit(base).path.strip("/") else base
        root = seen or self._variable("APP_URL") or self._variable("BATCHFLOW_APP_URL")
        if root is None:
            raise ConfigurationError(
                "the public URL of this app is not known; set APP_URL, or base_url= at @flow.serve, "
                "to where its router is reached from outside"
            )
        return root

    def _variable(self, name: str) -> str | None:
        return self.env.get(name, "").rstrip("/") or None


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
