"""URLs that are given: absolute ones, and what is said of others."""

import re
from typing import cast
from urllib.parse import urlsplit

from batchflow.core.call import without_userinfo
from batchflow.errors import ConfigurationError
from batchflow.serve.showing import is_writable, shown

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def shown_url(url: object) -> str:
    """The same of a URL, without the password that it may hold."""
    return shown(without_userinfo(url) if isinstance(url, str) else url)


def is_absolute(url: object) -> bool:
    """Whether this is a URL that can be called."""
    if not isinstance(url, str) or not is_writable(url) or url != url.strip() or _CONTROL.search(url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def check_url(option: str, value: object, *, bare: bool = True) -> None:
    """An absolute URL, or None; a `bare` one ends with its path, since more is put behind it.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is None:
        return
    if not is_absolute(value) or " " in cast("str", value):
        raise ConfigurationError(
            f"'{option}' cannot be {shown_url(value)}; write an absolute URL, such as https://app.example.com"
        )
    if bare and ("?" in cast("str", value) or "#" in cast("str", value)):
        raise ConfigurationError(f"'{option}' cannot be {shown_url(value)}; write it without a query and a fragment")
