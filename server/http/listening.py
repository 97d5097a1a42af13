"""File descriptors: as many as the connections need if the system gives them, and no more connections than it gives.

Every connection takes one and every upload under way another; the worker, the decoding children, the job store and
the log take the rest. Out of descriptors, a server could accept nobody, not even for its health page.
"""

from __future__ import annotations

import logging
import resource

from scribewire.server.observability.logs import log_event

ACCEPTED_AT_ONCE = 8
"""Connections taken from the queue in one turn of the event loop; about four turns pass until one is turned away."""

RESERVED_DESCRIPTORS = 64 + 4 * ACCEPTED_AT_ONCE
SPARE_CONNECTIONS = 16
"""Connections over the cap, for the health page."""

LEAST_WANTED = 4096
FEWEST_CONNECTIONS = 8

logger = logging.getLogger("scribewire.descriptors")


def raise_descriptor_limit(max_connections: int, max_concurrent_uploads: int) -> int:
    """Raise this process's soft limit as far as needed and allowed; returns the limit that holds now."""
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
    """How many connections the descriptors allow beside uploads and the rest; never fewer than a handful."""
    allowed = descriptors - max_concurrent_uploads - RESERVED_DESCRIPTORS - SPARE_CONNECTIONS
    cap = max(FEWEST_CONNECTIONS, min(max_connections, allowed))
    if cap < max_connections:
        log_event(logger, logging.WARNING, "connections_capped", connections=cap, descriptors=descriptors)
    return cap
