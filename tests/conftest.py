"""Rules for every test: no network but this machine's own, and no test on a machine it was not made for.

Markers are declared in pyproject.toml; by default nothing is chosen that needs torch, minutes, a GPU, a network or
downloaded weights.
"""

import faulthandler
import ipaddress
import os
import platform
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

IS_APPLE_SILICON = sys.platform == "darwin" and platform.machine() == "arm64"


HANG_SECONDS = 240.0
"""No test is judged by its speed; one that takes so long hangs. Less than faulthandler_timeout, which names no test."""


class NetworkUsed(AssertionError):
    """A test that is not marked `network` tried to reach another host."""


def pytest_configure(config: pytest.Config) -> None:
    """Where the GPU cannot compute (a virtual Mac), MLX's own default is the CPU too, for tests that name no device."""
    if os.environ.get("SCRIBEWIRE_DEVICE") == "cpu":
        import mlx.core as mx

        mx.set_default_device(mx.Device(mx.cpu))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `mac` out on every other kind of machine."""
    if IS_APPLE_SILICON:
        return
    elsewhere = [item for item in items if item.get_closest_marker("mac")]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if not item.get_closest_marker("mac")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run when a test hangs: every thread's stack, then the test and its phase as the last line."""

    def give_up() -> None:
        # What pytest captured, standard error among it, is not shown any more. The standard output of a process of
        # xdist leads nowhere; its standard error is that of the whole run.
        is_one_of_many = hasattr(item.config, "workerinput")
        out = (sys.__stderr__ if is_one_of_many else sys.__stdout__) or sys.stdout
        capture = item.config.pluginmanager.get_plugin("capturemanager")
        capture.suspend_global_capture(in_=False)
        faulthandler.dump_traceback(out, all_threads=True)
        phase = os.environ.get("PYTEST_CURRENT_TEST", item.nodeid)
        print(f"\nscribewire: this test hung for {HANG_SECONDS:.0f} s: {phase}", file=out, flush=True)
        os._exit(3)

    watchdog = threading.Timer(HANG_SECONDS, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        return (yield)
    finally:
        watchdog.cancel()


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
