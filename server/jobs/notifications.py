"""Who waits for what to change: bells that are rung by name, on one event loop.

A bell that nobody listens to costs nothing, and a ring while its listener is busy is not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Notifications:
    """Listeners by the name of what they wait for."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}

    def notify(self, name: str) -> None:
        """Wake all who listen for this."""
        for event in self._listeners.get(name, ()):
            event.set()

    def notify_all(self) -> None:
        """Wake everybody."""
        for name in self._listeners:
            self.notify(name)

    @contextlib.contextmanager
    def subscribed(self, name: str) -> Iterator[asyncio.Event]:
        """An event that every ring sets; its listener clears it before looking at what may have changed."""
        event = asyncio.Event()
        self._listeners.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            listeners = self._listeners[name]
            listeners.discard(event)
            if not listeners:
                del self._listeners[name]


WORK = "work"
"""Rung when a job is queued, and when nothing more is handed out."""

CALLBACKS = "callbacks"
"""Rung when somebody is to be told of a job's end."""


def log_topic(job_id: str) -> str:
    """The bell of a job's log."""
    return f"log {job_id}"


def claim_topic(job_id: str) -> str:
    """The bell of a job's claim, rung when the claim is over."""
    return f"claim {job_id}"
