"""Allowed receivers of webhooks: targets that the operator named, at addresses that are safe to call.

A request can make this server call an address; without limits it could be made to call what only this machine or its
cloud can reach (SSRF). So nothing is allowed until the operator names it, and a name's addresses are checked again at
every attempt, when connecting (scribewire.server.webhooks.sender), because a name's addresses may change.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

MAX_URL_CHARACTERS = 2000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL_CHARACTERS = re.compile(r"[!-~]+")

# Metadata addresses of clouds, which serve a machine's secrets, besides link-local ones. Source: the providers'
# documentation (AWS over IPv6, Alibaba, Azure).
_METADATA = tuple(ip_network(one) for one in ("fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32"))
_NAT64 = ip_network("64:ff9b::/96")


class TargetNotAllowed(Exception):
    """The target may not be called (any more); the message is the reason, in a few words."""


@dataclass(frozen=True, slots=True)
class Target:
    """Receiver of a webhook: the URL's parts, and whether the operator named its address itself."""

    scheme: str
    host: str
    port: int
    path: str
    is_named_address: bool

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Allowed:
    """One entry of the list; scheme None: any scheme, port None: the scheme's default port."""

    scheme: str | None
    host: str
    port: int | None
    path: str

    def covers(self, scheme: str, host: str, port: int, path: str) -> bool:
        if host != self.host or self.scheme not in (None, scheme):
            return False
        if port != (self.port if self.port is not None else _DEFAULT_PORTS[scheme]):
            return False
        prefix = self.path
        if not path.startswith(prefix):
            return False
        rest = path[len(prefix) :]
        # `/hooks` covers `/hooks`, `/hooks/a` and `/hooks?a`, but not `/hooksmith`.
        return not rest or prefix.endswith("/") or rest[0] in "/?"


class AllowedTargets:
    """The operator's list (`--allow-callback`)."""

    def __init__(self, entries: Sequence[str]) -> None:
        """entries: `host`, `host:port` or the beginning of a URL. raises: ValueError for an invalid entry"""
        self._allowed = tuple(_entry(one) for one in entries)

    @property
    def is_empty(self) -> bool:
        """True when no target is allowed."""
        return not self._allowed

    def target(self, url: str) -> Target:
        """The target of a URL. raises: ValueError (not a usable URL), TargetNotAllowed"""
        parts = _parts(url)
        scheme, host = parts.scheme, (parts.hostname or "").rstrip(".")
        port = parts.port or _DEFAULT_PORTS[scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not any(one.covers(scheme, host, port, path) for one in self._allowed):
            raise TargetNotAllowed("the target is not allowed (--allow-callback)")
        return Target(
            scheme, host, port, path, is_named_address=host == "localhost" or _address(host) is not None
        )


def check_address(text: str, target: Target) -> str:
    """An address of the target's name, if it may be connected to; raises TargetNotAllowed.

    An entry that is an address (or `localhost`) allows that address; a host's name must not resolve to this machine,
    its link or its cloud's metadata.
    """
    address = _unwrapped(ip_address(text.partition("%")[0]))
    if target.is_named_address:
        if target.host == "localhost" and not address.is_loopback:
            raise TargetNotAllowed("localhost leads away from this machine")
        return text
    is_trap = (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or (address.is_reserved and not address.is_private)
        or address == IPv4Address("255.255.255.255")
        or any(address in network for network in _METADATA if network.version == address.version)
    )
    if is_trap:
        raise TargetNotAllowed("the name leads to an address of this machine, its link or its cloud")
    return text


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one embeds, or the address itself."""
    if isinstance(address, IPv6Address):
        if (inner := address.ipv4_mapped or address.sixtofour) is not None:
            return inner
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parts(url: str) -> SplitResult:
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"is longer than {MAX_URL_CHARACTERS} characters")
    if not _URL_CHARACTERS.fullmatch(url) or "\\" in url:
        raise ValueError("must be a URL in ASCII without spaces")
    try:
        parts = urlsplit(url)
        is_port = parts.port != 0
    except ValueError:
        raise ValueError("must be a URL whose host and port can be read") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not is_port:
        raise ValueError("must begin with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must hold no user name, password or fragment")
    if _may_climb(parts.path):
        raise ValueError("must hold no . or .. between slashes")
    return parts


def _may_climb(path: str) -> bool:
    """True when some receiver may read a path as one with `.` or `..` between slashes, and so leave its prefix.

    Receivers, and proxies before them, decode a path more than once, end a name at `;`, take a backslash for a slash,
    leave out spaces and control characters, and read other characters for a dot.
    """
    try:
        while (decoded := unicodedata.normalize("NFKC", unquote(path, errors="strict"))) != path:
            path = decoded
    except UnicodeDecodeError:  # a longer form of a shorter character, such as %c0%ae
        return True
    names = (re.sub(r"[\0-\x20\x7f-\x9f]", "", name) for name in re.split(r"[/\\]", path))
    return any(name.partition(";")[0] in (".", "..") for name in names) or "%u" in path.lower()


def _entry(text: str) -> _Allowed:
    if "://" in text:
        parts = _parts(text)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        return _Allowed(parts.scheme, (parts.hostname or "").rstrip("."), port, parts.path or "/")
    if "/" in text:
        raise ValueError("must be a host, host:port, or the beginning of a URL with its https://")
    parts = _parts(f"http://{text}")
    return _Allowed(None, (parts.hostname or "").rstrip("."), parts.port, "/")


def allowed_targets(value: object) -> tuple[str, ...]:
    """A setting's value as a list of entries; raises ValueError."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
        raise ValueError("must be a list of texts")
    entries = tuple(one.strip() for text in given for one in text.split(",") if one.strip())
    AllowedTargets(entries)
    return entries
