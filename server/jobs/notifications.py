"""Publish and subscribe by topic, on one event loop.

A topic without subscribers costs nothing, and a notification while its subscriber is busy is not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Notifications:
    """Subscribers by topic."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[asyncio.Event]] = {}

    def notify(self, topic: str) -> None:
        """Wake the subscribers of a topic."""
        for event in self._subscribers.get(topic, ()):
            event.set()

    def notify_all(self) -> None:
        """Wake the subscribers of every topic."""
        for topic in self._subscribers:
            self.notify(topic)

    @contextlib.contextmanager
    def subscribed(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that every notification sets; its subscriber clears it before it reads what may have changed."""
        event = asyncio.Event()
        self._subscribers.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            subscribers = self._subscribers[topic]
            subscribers.discard(event)
            if not subscribers:
                del self._subscribers[topic]


WORK = "work"
"""Notified when a job is queued, and when no more jobs can be claimed."""

CALLBACKS = "callbacks"
"""Notified when a webhook becomes due."""


def log_topic(job_id: str) -> str:
    """Topic of a job's log."""
    return f"log {job_id}"


def claim_topic(job_id: str) -> str:
    """Topic of a job's claim, notified when the claim is over."""
    return f"claim {job_id}"
