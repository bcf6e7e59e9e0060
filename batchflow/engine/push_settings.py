"""The rules for the addresses of posts: those that are allowed, other addresses for hosts, and a proxy."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import urlsplit

from batchflow.core.call import printable_url
from batchflow.errors import ConfigurationError

Network: TypeAlias = IPv4Network | IPv6Network

_NAMED: Mapping[str, tuple[Network, ...]] = MappingProxyType(
    {
        "private": tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))),
        "loopback": tuple(map(ip_network, ("127.0.0.0/8", "::1/128"))),
    }
)
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?", re.ASCII)
_WANT_ALLOW = "write networks such as '10.0.0.0/8', 'private' or 'loopback', with commas between them"
_WANT_EGRESS = "write host=http://address:port or proxy=http://host:port, with commas between them"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """The rules for the addresses that posts are pushed to.

    Addresses that are not public are refused, except those in the networks of `allow`. Requests to a host of `egress`,
    given as `host` or `host:port`, go to the HTTP server at the URL that it names, with the headers and the signature
    of the host. All others go through the HTTP server `proxy`, if there is one: it resolves their names, so it has to
    refuse addresses itself. The addresses of `egress` and `proxy` are always allowed.
    """

    allow: tuple[Network, ...] = ()
    egress: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    proxy: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, *, allow: str = "", egress: str = "") -> "PushSettings":
        """The settings of two texts: networks with commas between them, and the value of `BATCHFLOW_EGRESS`.

            PushSettings.of(allow="loopback, 10.1.0.0/16", egress="api.example.com=http://127.0.0.1:9000")
            PushSettings.of(egress="proxy=http://proxy.internal:3128")

        Raises:
            ConfigurationError: one of them is not valid.
        """
        networks: list[Network] = []
        for text in _entries(allow):
            networks += _NAMED.get(text.lower()) or (_network(text),)
        hosts: dict[str, str] = {}
        for text in _entries(egress):
            host, _, url = (it.strip() for it in text.partition("="))
            host = host.lower()
            if host in hosts:
                raise ConfigurationError(f"names '{host}' twice", option="BATCHFLOW_EGRESS", want="name it once")
            if not _HOST.fullmatch(host) or not _is_origin(url):
                shown = repr(f"{host}={printable_url(url)}" if url else host)
                raise ConfigurationError(option="BATCHFLOW_EGRESS", got=shown, want=_WANT_EGRESS)
            hosts[host] = url.rstrip("/")
        return cls(allow=tuple(networks), egress=hosts, proxy=hosts.pop("proxy", None))

    def allows(self, address: str) -> bool:
        """True if requests may go to this IP address."""
        return _allows(self.allow, address)


@lru_cache(maxsize=4096)
def _allows(networks: tuple[Network, ...], text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    reached = [address] if isinstance(address, IPv4Address) else _reached(address)
    return all(_is_public(it) or any(it in network for network in networks) for it in reached)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and (not address.is_multicast if isinstance(address, IPv4Address) else address in _UNICAST)


def _reached(address: IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The addresses that a connection to `address` may reach: it may stand for one of IPv4."""
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    # Without its scope, of which networks know nothing.
    return [IPv6Address(int(address))]


def _entries(text: str) -> Iterable[str]:
    return (it.strip() for it in text.split(",") if it.strip())


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigurationError(option="allow", got=repr(text), want=_WANT_ALLOW) from error


def _is_origin(url: str) -> bool:
    """True for the URL of an HTTP server without a path."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        return False
