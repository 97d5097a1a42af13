"""Which requests wait for the engine's worker, which ones it holds, and which may be handed to it next.

The worker schedules what it holds by itself, so everything is handed over as soon as there is a worker, but for work
that must run alone: it waits until the worker's hands are empty, and while it runs nothing else is handed over.
Whoever waits for an answer goes before work that has to be alone, so that a suspect does not hold up those who wait;
but only for so long, so that they cannot keep it waiting for ever. It sends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from scribewire.server.engine.requests import EngineRequest

LONE_WORK_PATIENCE_SECONDS = 60.0


class InFlight:
    """Requests on this side and on the other side of the pipe; a request is on one of them at most."""

    def __init__(
        self,
        *,
        lone_work_patience_seconds: float = LONE_WORK_PATIENCE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """lone_work_patience_seconds: how long work that must run alone lets others pass, after each turn anew."""
        self._patience_seconds = lone_work_patience_seconds
        self._monotonic = monotonic
        self._waiting: list[EngineRequest] = []
        self._held: dict[str, EngineRequest] = {}
        self._lone_work_since: float | None = None
        """Since when some lone work waits for its turn."""

    @property
    def waiting(self) -> tuple[EngineRequest, ...]:
        """Those on this side, in the order in which they came."""
        return tuple(self._waiting)

    @property
    def held_count(self) -> int:
        """How many the worker has not answered yet, cancelled ones included."""
        return len(self._held)

    def held(self, request_id: str) -> EngineRequest | None:
        """The request of this id, if the worker holds it."""
        return self._held.get(request_id)

    def add(self, request: EngineRequest) -> None:
        """Let a request wait."""
        self._waiting.append(request)

    def withdraw(self, request: EngineRequest) -> None:
        """Forget a request that still waits; one that the worker holds stays until it is answered."""
        if request in self._waiting:
            self._waiting.remove(request)

    def release(self, request_id: str) -> None:
        """The worker has answered this one."""
        self._held.pop(request_id, None)

    def drop_all(self) -> tuple[EngineRequest, ...]:
        """The worker is gone: what it held, in the order in which it got it."""
        held, self._held = tuple(self._held.values()), {}
        return held

    def take_back(self, requests: tuple[EngineRequest, ...]) -> None:
        """Let requests wait again, before those that never had their turn."""
        self._waiting[:0] = requests

    def take_next(self) -> EngineRequest | None:
        """The next one to hand over, which is then held; None when nothing may be handed over now."""
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
