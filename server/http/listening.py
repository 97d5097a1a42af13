"""The listening socket, the descriptors that connections need, and connections capped by their limit.

Every connection takes one and every running upload another; the worker, the transcoding children, the job store and
the log take the rest. Without free descriptors a server could accept no connection, not even for its health page.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket

from scribewire.server.observability.logs import log_event
from scribewire.server.settings.fields import Settings

BACKLOG = 512
ACCEPTED_AT_ONCE = 8
"""Connections accepted in one iteration of the event loop; refusing one takes about four iterations."""

RESERVED_DESCRIPTORS = 64 + 4 * ACCEPTED_AT_ONCE
SPARE_CONNECTIONS = 16
"""Additional connections over the cap, for the health page."""

LEAST_WANTED = 4096
FEWEST_CONNECTIONS = 8

_PROBE_SECONDS = 0.5

logger = logging.getLogger("scribewire.descriptors")


class BindFailed(Exception):
    """The address cannot be listened on; the message is one line saying why and what to do."""


class Listener(socket.socket):
    """A listening socket with a long queue, whatever length the event loop requests.

    asyncio uses one number for the queue's length and for the connections accepted in one turn of the event loop; so
    many at once would use up the descriptors before the first one can be refused.
    """

    def listen(self, backlog: int = BACKLOG, /) -> None:
        """Listen, or continue to listen, with a queue of BACKLOG."""
        super().listen(BACKLOG)


def bind(host: str, port: int, kind: type[Listener] = Listener) -> socket.socket:
    """A socket that listens on this address; raises BindFailed. kind: made by tests as another system makes it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's delay (40 ms an answer) only on sockets that are declared as TCP.
    listener = kind(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if port and _is_answered(family, host, port):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        # Listening now, not later, detects a second server that bound the port but does not listen yet.
        listener.listen()
    except OSError as error:
        listener.close()
        raise BindFailed(_bind_failure(host, port, error)) from None
    return listener


def _is_answered(family: socket.AddressFamily, host: str, port: int) -> bool:
    """True when a server accepts connections there.

    macOS lets a listener on one address and another on all addresses have the same port (SO_REUSEADDR), and clients
    come to the one that is more specific.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            # A connection to "all addresses" goes to this machine.
            return probe.connect_ex((host.strip("[]"), port)) == 0
        except OSError:  # no such address: bind says so
            return False


def _bind_failure(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user; choose one above 1023 with --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}; see --host and --port"


def raise_descriptor_limit(max_connections: int, max_concurrent_uploads: int) -> int:
    """Raise this process's soft limit as far as needed and allowed; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(
        LEAST_WANTED, max_connections + max_concurrent_uploads + RESERVED_DESCRIPTORS + SPARE_CONNECTIONS
    )
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return descriptor_limit()
    asked = wanted
    while asked > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (asked, hard))
            break
        except (
            OSError,
            ValueError,
        ) as error:  # macOS has a ceiling below the hard limit, and does not tell it
            reason = str(error)
            asked = (asked + soft) // 2
    if asked < wanted:
        limit = descriptor_limit()
        log_event(logger, logging.WARNING, "descriptor_limit_low", limit=limit, wanted=wanted, reason=reason)
    return descriptor_limit()


def descriptor_limit() -> int:
    """The soft limit of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def connection_cap(settings: Settings, descriptors: int) -> int:
    """Number of connections that the descriptors allow besides uploads and the rest; never below a small minimum."""
    allowed = descriptors - settings.max_concurrent_uploads - RESERVED_DESCRIPTORS - SPARE_CONNECTIONS
    return max(FEWEST_CONNECTIONS, min(settings.max_connections, allowed))
