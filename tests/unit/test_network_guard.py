"""The guard in tests/conftest.py: tests reach this machine and no other."""

import socket

import pytest

# A documentation address (RFC 5737) and a name that no one can own (RFC 2606): nothing answers at either.
OTHER_ADDRESS = "192.0.2.1"
OTHER_NAME = "host.invalid"


def test_connection_to_another_host_is_refused_before_a_packet_leaves() -> None:
    with socket.socket() as client, pytest.raises(AssertionError, match="reaches for"):
        client.connect((OTHER_ADDRESS, 80))


def test_quiet_connection_to_another_host_is_refused_too() -> None:
    with socket.socket() as client, pytest.raises(AssertionError, match="reaches for"):
        client.connect_ex((OTHER_ADDRESS, 80))


def test_name_of_another_host_is_not_looked_up() -> None:
    with pytest.raises(AssertionError, match="reaches for"):
        socket.create_connection((OTHER_NAME, 80), timeout=1)


def test_loopback_is_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]):
        pass
