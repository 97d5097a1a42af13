"""The requests that wait for the engine's worker, those in flight, and the choice of the next one to send.

The worker schedules what it holds itself, so everything is sent as soon as there is a worker, except work that must
run alone: it waits until nothing is in flight, and while it runs nothing else is sent. Interactive requests go before
work that must run alone, so that a suspect does not delay them; but only for a bounded time, so that they cannot starve
it. It sends nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from scribewire.server.engine.requests import EngineRequest

LONE_WORK_PATIENCE_SECONDS = 60.0


class InFlight:
    """Requests that wait and requests that the worker holds; a request is one or the other at most."""

    def __init__(
        self,
        *,
        lone_work_patience_seconds: float = LONE_WORK_PATIENCE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """lone_work_patience_seconds: how long work that must run alone lets others pass, each time it waits."""
        self._patience_seconds = lone_work_patience_seconds
        self._monotonic = monotonic
        self._waiting: list[EngineRequest] = []
        self._held: dict[str, EngineRequest] = {}
        self._lone_work_since: float | None = None
        """Time since which lone work waits, None without any."""

    @property
    def waiting(self) -> tuple[EngineRequest, ...]:
        """Requests that wait, in order of arrival."""
        return tuple(self._waiting)

    @property
    def held_count(self) -> int:
        """Number of requests that the worker has not answered yet, cancelled ones included."""
        return len(self._held)

    def held(self, request_id: str) -> EngineRequest | None:
        """The request with this id, None unless the worker holds it."""
        return self._held.get(request_id)

    def add(self, request: EngineRequest) -> None:
        """Add a request to those that wait."""
        self._waiting.append(request)

    def withdraw(self, request: EngineRequest) -> None:
        """Remove a request that still waits; one that the worker holds stays until it is answered."""
        if request in self._waiting:
            self._waiting.remove(request)

    def release(self, request_id: str) -> None:
        """Remove a request that the worker has answered."""
        self._held.pop(request_id, None)

    def drop_all(self) -> tuple[EngineRequest, ...]:
        """Remove and return all that a dead worker held, in the order in which it was sent."""
        held, self._held = tuple(self._held.values()), {}
        return held

    def take_back(self, requests: tuple[EngineRequest, ...]) -> None:
        """Let requests wait again, before those that were never sent."""
        self._waiting[:0] = requests

    def take_next(self) -> EngineRequest | None:
        """The next request to send, which counts as held from now on; None when none may be sent now."""
        request = self._next()
        if request is not None:
            self._waiting.remove(request)
            self._held[request.request_id] = request
            if request.runs_alone:
                self._lone_work_since = None
        return request

    def _next(self) -> EngineRequest | None:
        if any(request.runs_alone for request in self._held.values()):
            self._lone_work_since = None
            return None
        lone = next((request for request in self._waiting if request.runs_alone), None)
        others = [request for request in self._waiting if not request.runs_alone]
        if lone is None:
            self._lone_work_since = None
            return others[0] if others else None
        now = self._monotonic()
        if self._lone_work_since is None:
            self._lone_work_since = now
        if now - self._lone_work_since < self._patience_seconds:
            for request in others:
                if request.is_interactive:
                    return request
        return None if self._held else lone
