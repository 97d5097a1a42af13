"""The listening socket where the system is unlike Linux: shared ports, a hidden ceiling, options that are refused."""

from __future__ import annotations

import errno
import resource
import socket

import pytest

from scribewire.server.http.listening import BindFailed, Listener, bind, raise_descriptor_limit
from scribewire.server.http.protocol import probe_when_idle


class SharingListener(Listener):
    """Shares its port between one address and all addresses, as macOS lets every listener."""

    def setsockopt(self, *arguments) -> None:
        super().setsockopt(*arguments)
        super().setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


@pytest.mark.parametrize(("first", "second"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_port_that_another_address_has_is_taken_where_the_system_would_share_it(first: str, second: str):
    with bind(first, 0, SharingListener) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BindFailed, match=f"port {port} on {second} is in use"):
            bind(second, port, SharingListener)
    bind(second, port, SharingListener).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_free_port_is_bound_by_its_number(host: str):
    with bind(host, 0) as listener:
        port = listener.getsockname()[1]
    with bind(host, port) as again:
        assert again.getsockname()[1] == port


class Ceiling:
    """setrlimit of a system with a ceiling below the hard limit."""

    def __init__(self, most: int) -> None:
        self.most, self.soft = most, 256

    def getrlimit(self, kind: int) -> tuple[int, int]:
        return self.soft, resource.RLIM_INFINITY

    def setrlimit(self, kind: int, limits: tuple[int, int]) -> None:
        if limits[0] > self.most:
            raise ValueError("invalid argument")
        self.soft = limits[0]


@pytest.mark.parametrize("most", [256, 2560, 3000, 10_240, 1 << 20])
def test_descriptors_are_raised_as_far_as_a_hidden_ceiling_allows(most: int, monkeypatch, caplog):
    system = Ceiling(most)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    got = raise_descriptor_limit(max_connections=8192, max_concurrent_uploads=64)
    assert got == system.soft <= most
    assert got >= min(most, 8192) // 2
    assert (got < 8192) == ("descriptor_limit_low" in caplog.text)


def test_connection_that_was_reset_before_it_was_probed_is_no_error():
    class Reset(socket.socket):
        def setsockopt(self, *arguments) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    with Reset() as connection:
        probe_when_idle(connection)
