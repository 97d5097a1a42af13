"""The server's one way to the engine: `await client.transcribe(...)`.

Every request gets exactly one end: a transcript, an engine error, or the cancellation of whoever awaits it. The
client bounds how many are in hand and waits a while for an engine that is starting. What a dead worker held is handed
to the next one, as often as each request's attempts allow; it keeps no jobs and counts nothing beyond this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Literal

from scribewire.engine.processes.launch import WORKER_MODULE
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.errors import EngineBusy, EngineError, EngineUnavailable
from scribewire.engine.protocol.messages import (
    AudioSource,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    Progress,
    TextDelta,
    Transcribe,
)
from scribewire.engine.protocol.transcript import Segment, Transcript
from scribewire.server.engine.inflight import InFlight
from scribewire.server.engine.requests import AudioOutcome, Callbacks, EngineRequest
from scribewire.server.engine.restarts import RestartPolicy
from scribewire.server.engine.supervisor import BreakerState, EngineState, EngineSupervisor
from scribewire.server.engine.totals import EngineStatistics
from scribewire.server.engine.watchdog import WatchLimits
from scribewire.server.http.errors import EngineResting
from scribewire.server.settings.fields import Settings

__all__ = ["AudioOutcome", "EngineClient"]

ATTEMPTS_WHILE_SOMEBODY_WAITS = 2
ATTEMPTS_IN_THE_BACKGROUND = 1
"""A job's store counts its worker deaths and hands it out again, which outlives this process."""


class EngineClient:
    """Requests in, transcripts out; lives on one event loop."""

    def __init__(
        self,
        supervisor: EngineSupervisor,
        *,
        max_queued_requests: int = 256,
        wait_seconds: float = 15.0,
        in_flight: InFlight | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._max_queued_requests = max_queued_requests
        self._wait_seconds = wait_seconds
        self._in_flight = in_flight or InFlight()
        self._pending: dict[str, EngineRequest] = {}
        """Requests that somebody awaits."""
        self._admitted = 0
        self._is_closed = False
        self._closed_at = 0.0
        self._state_changed = asyncio.Event()
        self.statistics = EngineStatistics()

    @classmethod
    def from_settings(cls, settings: Settings, *, module: str = WORKER_MODULE) -> EngineClient:
        """A client with its supervisor; `module` replaces the worker's module (the fake)."""
        supervisor = EngineSupervisor(
            settings.engine_config(),
            module=module,
            load_timeout_seconds=settings.load_timeout_seconds,
            restarts=RestartPolicy(
                backoff_seconds=settings.restart_backoff_seconds,
                breaker_deaths=settings.breaker_deaths,
                breaker_window_seconds=settings.breaker_window_seconds,
                breaker_pause_seconds=settings.breaker_pause_seconds,
            ),
            watch=WatchLimits(
                stall_seconds=settings.stall_seconds, load_seconds=settings.load_timeout_seconds
            ),
        )
        return cls(
            supervisor,
            max_queued_requests=settings.max_queued_requests,
            wait_seconds=settings.restart_wait_seconds,
        )

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker; returns at once."""
        self._supervisor.start(self)

    def close_admission(self) -> None:
        """Admit nothing more from now on, while what was admitted goes on: the first step of a stop.

        Safe to call from a signal handler.
        """
        if not self._is_closed:
            self._is_closed = True
            self._closed_at = time.monotonic()

    def drain_seconds_left(self, drain_seconds: float) -> float:
        """What is left of the time for finishing, counted from when admission was closed."""
        return (
            max(0.0, drain_seconds - (time.monotonic() - self._closed_at))
            if self._is_closed
            else drain_seconds
        )

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Stop the worker; requests without an end after the time fail with EngineUnavailable."""
        self.close_admission()
        await self._supervisor.stop(drain_seconds)

    @property
    def state(self) -> EngineState:
        """What the engine is doing."""
        return self._supervisor.state

    @property
    def info(self) -> ModelInfo | None:
        """The loaded model, None until the first worker was ready."""
        return self._supervisor.info

    @property
    def failure(self) -> EngineError | None:
        """Why no model can be loaded, if that is so."""
        return self._supervisor.failure

    @property
    def worker_process_id(self) -> int | None:
        """The living worker's process id."""
        return self._supervisor.process_id

    @property
    def worker_deaths(self) -> int:
        """How many workers have died since the start."""
        return self._supervisor.died_workers

    @property
    def worker_starts(self) -> int:
        """How many workers were started."""
        return self._supervisor.started_workers

    @property
    def worker_stalls(self) -> int:
        """How many workers were ended because they stood still."""
        return self._supervisor.stalled_workers

    @property
    def breaker(self) -> BreakerState:
        """Whether too many deaths keep the engine at rest."""
        return self._supervisor.breaker

    @property
    def is_stalled(self) -> bool:
        """Whether the worker stood still for too long and is being replaced."""
        return self._supervisor.is_stalled

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is admitted because the server ends."""
        return self._is_closed

    @property
    def admitted(self) -> int:
        """Recordings that hold a place: being decoded, waiting, or in the worker's hands."""
        return self._admitted

    @property
    def waiting_count(self) -> int:
        """Recordings that no worker holds yet."""
        return max(0, self._admitted - self._in_flight.held_count)

    @property
    def held_count(self) -> int:
        """Recordings in the worker's hands."""
        return self._in_flight.held_count

    def stderr_lines(self) -> list[str]:
        """The newest lines of the living worker's standard error, such as a download's progress."""
        return self._supervisor.stderr_lines()

    def unavailable(self) -> EngineUnavailable:
        """Why nothing can be transcribed now, for an engine that is not ready, and when to ask again."""
        if seconds := self._supervisor.resting_seconds:
            seconds += self.info.load_seconds if self.info is not None else 0.0
            return EngineResting(self._supervisor.why_not_ready(), retry_after_seconds=math.ceil(seconds))
        return EngineUnavailable(self._supervisor.why_not_ready())

    async def wait_settled(self) -> EngineState:
        """Wait until the engine is ready, or never will be (`failed`, `stopping`, `stopped`)."""
        while self.state in ("starting", "restarting"):
            await self._next_change()
        return self.state

    async def wait_ready(self) -> ModelInfo:
        """The loaded model, after a bounded wait for an engine that is starting.

        raises: EngineUnavailable, at once while the breaker is open, or the model's own error when it cannot be loaded.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                while self.state in ("starting", "restarting"):
                    self._check_not_resting()
                    await self._next_change()
        except TimeoutError:
            raise self.unavailable() from None
        self._check_not_over()
        if self.info is None:
            raise EngineUnavailable("The model is not loaded.")
        return self.info

    # ---- work ------------------------------------------------------------------------------------------------

    def check_admission(self) -> None:
        """Refuse early what would be refused anyway; raises EngineBusy, EngineUnavailable, a model error."""
        self.check_usable()
        self._check_not_resting()
        if self._admitted >= self._max_queued_requests:
            raise EngineBusy(f"{self._max_queued_requests} recordings wait already; try again shortly.")

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """Hold a place among the recordings that wait, while this one is made ready; raises as check_admission."""
        self.check_admission()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def transcribe(
        self,
        source: AudioSource,
        options: TranscribeOptions,
        *,
        owner: str,
        priority: Literal["interactive", "background"] = "interactive",
        on_started: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_partial: Callable[[Segment], None] | None = None,
        on_delta: Callable[[TextDelta], None] | None = None,
        audio_ended: asyncio.Future[AudioOutcome] | None = None,
        is_admitted: bool = False,
        attempts: int | None = None,
        runs_alone: bool = False,
    ) -> Transcript:
        """Transcribe one recording; cancelling the awaiting task cancels the work at its next step.

        audio_ended: of a growing source, what becomes of it; it must not end in an exception.
        is_admitted: the caller holds an `admission` already.
        attempts: workers that may die with it before it fails: 2 for interactive work, unless said otherwise, and 1
        for background work, whose deaths are counted by those who keep it. From the third attempt on it runs alone.
        runs_alone: nothing else is in the worker's hands while this is, from the first attempt on.
        Callbacks run on the event loop and must not block. They tell one story, also when two workers take part.
        raises: EngineBusy, EngineUnavailable, EngineCrashed, and whatever the engine answers.
        """
        if attempts is None:
            attempts = (
                ATTEMPTS_WHILE_SOMEBODY_WAITS if priority == "interactive" else ATTEMPTS_IN_THE_BACKGROUND
            )
        with contextlib.nullcontext() if is_admitted else self.admission():
            await self.wait_ready()
            message = Transcribe(
                request_id=secrets.token_hex(16),
                audio=source,
                options=options,
                owner=owner,
                priority=priority,
                wants_segments=on_partial is not None,
                wants_deltas=on_delta is not None,
            )
            return await self._carry(
                EngineRequest(
                    message,
                    Callbacks(on_started, on_progress, on_partial, on_delta),
                    attempts=attempts,
                    runs_alone=runs_alone,
                    audio_ended=audio_ended,
                )
            )

    async def _carry(self, request: EngineRequest) -> Transcript:
        request_id = request.request_id
        self._pending[request_id] = request
        if request.audio_ended is not None:
            request.audio_ended.add_done_callback(lambda _: self._send_audio_end(request))
        self._in_flight.add(request)
        self._send_next()
        try:
            return await request.future
        except asyncio.CancelledError:
            if self._in_flight.held(request_id) is not None:
                self._supervisor.send(Cancel(request_id))
            raise
        finally:
            del self._pending[request_id]
            self._in_flight.withdraw(request)
            self._send_next()

    def _send_next(self) -> None:
        """Give the worker what it may have now."""
        while self.state == "ready" and (request := self._in_flight.take_next()) is not None:
            self._supervisor.send(request.message)
            self._send_audio_end(request)

    def _send_audio_end(self, request: EngineRequest) -> None:
        if (
            self._in_flight.held(request.request_id) is not None
            and (ended := request.audio_end()) is not None
        ):
            self._supervisor.send(ended)

    def check_usable(self) -> None:
        """Refuse what could never be answered; raises EngineUnavailable, a model error."""
        self._check_not_over()
        if self._is_closed:
            raise EngineUnavailable("The server is stopping.")

    def _check_not_over(self) -> None:
        if self.state == "failed":
            raise self.failure or EngineUnavailable("The model cannot be loaded.")
        if self.state in ("stopping", "stopped"):
            raise EngineUnavailable("The server is stopping.")

    def _check_not_resting(self) -> None:
        if self.state != "ready" and self._supervisor.resting_seconds:
            raise self.unavailable()

    async def _next_change(self) -> None:
        await self._state_changed.wait()

    # ---- what the supervisor tells ---------------------------------------------------------------------------

    def on_message(self, message: FromWorker) -> None:
        """Route a worker's message to its request; those of requests given up meanwhile are dropped."""
        if isinstance(message, Heartbeat):
            self.statistics.receive(message)
        request = self._in_flight.held(getattr(message, "request_id", ""))
        if request is None:
            return
        is_end = isinstance(message, Completed | Failed)
        if is_end:
            self._in_flight.release(request.request_id)
        was_done = request.future.done()
        request.receive(message)
        if is_end:
            self._send_next()
        elif request.future.done() and not was_done:
            # It cannot go on from what it has said already.
            self._supervisor.send(Cancel(request.request_id))

    def on_state(self, state: EngineState) -> None:
        """Wake whoever waits for the engine, and hand over or refuse what waits for a worker."""
        self._state_changed.set()
        self._state_changed = asyncio.Event()
        if state == "failed":
            self._refuse_waiting(self.failure or EngineUnavailable("The model cannot be loaded."))
        elif state in ("stopping", "stopped"):
            self._refuse_waiting(EngineUnavailable("The server is stopping."))
        elif state == "ready":
            self._send_next()
        elif self._supervisor.resting_seconds:
            self._refuse_waiting(self.unavailable())

    def on_death(self, reason: str) -> None:
        """Let what the dead worker held wait for the next one, or fail it."""
        self.statistics.forget_worker()
        held = [request for request in self._in_flight.drop_all() if not request.future.done()]
        if self.state in ("stopping", "stopped"):
            for request in held:
                request.fail(EngineUnavailable("The server stopped before this was done."))
            return
        for request in held:
            request.lose_worker(reason)
        self._in_flight.take_back(tuple(request for request in held if not request.future.done()))
        if self.state == "failed":
            self._refuse_waiting(self.failure or EngineUnavailable("The model cannot be loaded."))

    def _refuse_waiting(self, error: EngineError) -> None:
        for request in self._in_flight.waiting:
            self._in_flight.withdraw(request)
            request.fail(error)
