"""What holds for every test: no network but this machine's own, and no test on a machine it was not made for.

Markers are declared in pyproject.toml; by default nothing is chosen that needs torch, minutes, a GPU, a network or
downloaded weights.
"""

import ipaddress
import platform
import socket
import sys
from typing import Any

import pytest

IS_APPLE_SILICON = sys.platform == "darwin" and platform.machine() == "arm64"


class NetworkUsed(AssertionError):
    """A test that is not marked `network` tried to reach another host."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `mac` out on every other kind of machine."""
    if IS_APPLE_SILICON:
        return
    elsewhere = [item for item in items if item.get_closest_marker("mac")]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if not item.get_closest_marker("mac")]


@pytest.fixture(autouse=True)
def only_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections from this process to any other host, and look up no names of other hosts."""
    if request.node.get_closest_marker("network"):
        return
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse_other_hosts(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse_other_hosts(self.family, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_other_hosts(socket.AF_INET, (host, 0))
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


def refuse_other_hosts(family: int, address: Any) -> None:
    """Raise NetworkUsed unless the address is a loopback address, a local name, or a Unix socket."""
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host in {None, "", "localhost", "testserver", socket.gethostname()}:
        return
    try:
        # 0.0.0.0 and :: are what a server listens on, never a host to reach.
        is_local = ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        is_local = False
    if not is_local:
        raise NetworkUsed(f"this test reaches for {host}; mark it `network` or serve it from loopback")
