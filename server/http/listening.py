"""File descriptors: the limit raised as far as connections need it, and connections capped by the limit.

Every connection takes one and every running upload another; the worker, the transcoding children, the job store and
the log take the rest. Without free descriptors a server could accept no connection, not even for its health page.
"""

from __future__ import annotations

import logging
import resource

from scribewire.server.observability.logs import log_event

ACCEPTED_AT_ONCE = 8
"""Connections accepted in one iteration of the event loop; refusing one takes about four iterations."""

RESERVED_DESCRIPTORS = 64 + 4 * ACCEPTED_AT_ONCE
SPARE_CONNECTIONS = 16
"""Additional connections over the cap, for the health page."""

LEAST_WANTED = 4096
FEWEST_CONNECTIONS = 8

logger = logging.getLogger("scribewire.descriptors")


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
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS has a ceiling below the hard limit
        log_event(
            logger, logging.WARNING, "descriptor_limit_kept", limit=soft, wanted=wanted, reason=str(error)
        )
    return descriptor_limit()


def descriptor_limit() -> int:
    """The soft limit of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def connection_cap(max_connections: int, max_concurrent_uploads: int, descriptors: int) -> int:
    """Number of connections that the descriptors allow besides uploads and the rest; never below a small minimum."""
    allowed = descriptors - max_concurrent_uploads - RESERVED_DESCRIPTORS - SPARE_CONNECTIONS
    cap = max(FEWEST_CONNECTIONS, min(max_connections, allowed))
    if cap < max_connections:
        log_event(logger, logging.WARNING, "connections_capped", connections=cap, descriptors=descriptors)
    return cap
