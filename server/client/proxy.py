"""The proxy for a server, from the environment or macOS's settings.

httpx's own parser of NO_PROXY does not support networks, such as 192.168.0.0/16, and fails on addresses in brackets.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from scribewire.server.access.keys import is_loopback


def proxy_for(url: str) -> str | None:
    """The proxy's address for this URL; None for this machine, for what NO_PROXY covers, and where no proxy is set."""
    server = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if not proxy or is_loopback(server.hostname or ""):
        return None
    if any(_is_covered(server, entry.strip().lower()) for entry in proxies.get("no", "").split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_covered(server: SplitResult, entry: str) -> bool:
    """True when an entry of NO_PROXY covers a server.

    entry: `*`, an address, a network, or a name (`x.org` covers `a.x.org` too, `.x.org` and `*.x.org` only that); with
        a scheme before or a port behind it, or neither.
    """
    if entry in ("", "*"):
        return entry == "*"
    host = server.hostname or ""
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # one of them is a name
        pass
    try:
        covered = urlsplit(entry if "://" in entry else f"all://{entry}")
        name, port = covered.hostname or "", covered.port
    except ValueError:  # neither name nor address: covers nothing, as in curl
        return False
    if covered.scheme not in ("all", server.scheme) or port not in (None, server.port) or covered.path:
        return False
    domain = name.removeprefix("*.").removeprefix(".")
    return bool(domain) and (host == name or host.endswith(f".{domain}"))
