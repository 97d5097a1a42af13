"""The server's one way to the engine: admission, and then `async for event in client.transcribe(...)`.

Every request gets exactly one end: a transcript, an engine error, or the closing of its events, with the task that
awaits them or by hand. The client bounds how many are admitted and waits a while for an engine that is starting.
Requests that a dead worker held are sent to the next one, as often as their attempts allow; it keeps no jobs and counts
nothing beyond this process. A request names the model by its id or by an alias.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Literal

from scribewire.engine.processes.launch import WORKER_MODULE
from scribewire.engine.protocol.config import DEMO_MODEL, ModelInfo, TranscribeOptions
from scribewire.engine.protocol.errors import EngineBusy, EngineError, EngineUnavailable
from scribewire.engine.protocol.messages import (
    AudioSource,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    Transcribe,
)
from scribewire.server.engine.requests import (
    AudioOutcome,
    EngineRequest,
    InFlight,
    TranscriptionEvent,
)
from scribewire.server.engine.restarts import RestartPolicy
from scribewire.server.engine.supervisor import BreakerState, EngineState, EngineSupervisor
from scribewire.server.engine.totals import EngineStatistics
from scribewire.server.engine.watchdog import WatchLimits
from scribewire.server.http.errors import ApiError, EngineResting
from scribewire.server.observability.loops import BackgroundLoops
from scribewire.server.settings.fields import Settings

__all__ = ["AudioOutcome", "EngineClient", "TranscriptionEvent"]

MODEL_ALIASES = (
    "whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize", "gpt-live-transcribe", "gpt-realtime-whisper", "whisper-large-v3",
    "whisper-large-v3-turbo", "Systran/faster-whisper-large-v3", "Systran/faster-whisper-large-v3-turbo",
)  # fmt: skip
"""Names that clients have built in; each is an alias of the resident model."""

ATTEMPTS_WHILE_SOMEBODY_WAITS = 2
ATTEMPTS_IN_THE_BACKGROUND = 1
"""A job's store counts its worker deaths and queues it again, which outlives this process."""


class EngineClient:
    """Requests in, transcripts out; lives on one event loop."""

    def __init__(
        self,
        supervisor: EngineSupervisor,
        *,
        max_queued_requests: int = 256,
        wait_seconds: float = 15.0,
        in_flight: InFlight | None = None,
        aliases: Sequence[str] = (),
        takes_any_name: bool = False,
    ) -> None:
        """aliases: names of the resident model besides MODEL_ALIASES. takes_any_name: every name is one of its own."""
        self.supervisor = supervisor
        self.takes_any_name = takes_any_name
        self._aliases = (*MODEL_ALIASES, *aliases)
        self._max_queued_requests = max_queued_requests
        self._wait_seconds = wait_seconds
        self._in_flight = in_flight or InFlight()
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
            aliases=settings.model_alias,
            takes_any_name=settings.any_model,
        )

    # ---- lifecycle -------------------------------------------------------------------------------------------

    def start(self, loops: BackgroundLoops | None = None) -> None:
        """Start the worker; returns at once. loops: of the application; None for the engine's own."""
        self.supervisor.start(self, loops or BackgroundLoops())

    def close_admission(self) -> None:
        """Admit nothing more, while admitted requests continue: the first step of a stop.

        Safe to call from a signal handler.
        """
        if not self._is_closed:
            self._is_closed = True
            self._closed_at = time.monotonic()

    def end_drain(self) -> None:
        """Leave no more time for finishing. Safe to call from a signal handler."""
        self._closed_at = -math.inf

    def drain_seconds_left(self, drain_seconds: float) -> float:
        """Seconds left for finishing, counted from when admission was closed."""
        return (
            max(0.0, drain_seconds - (time.monotonic() - self._closed_at))
            if self._is_closed
            else drain_seconds
        )

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Stop the worker; requests unfinished after the drain time fail with EngineUnavailable."""
        self.close_admission()
        await self.supervisor.stop(drain_seconds)

    @property
    def state(self) -> EngineState:
        """The engine's state."""
        return self.supervisor.state

    @property
    def info(self) -> ModelInfo | None:
        """The loaded model, None until the first worker was ready."""
        return self.supervisor.info

    def names_of(self, info: ModelInfo) -> tuple[str, ...]:
        """Every known name of the resident model, its own first; `demo` is a name of the demo model only."""
        own = (info.model_id, DEMO_MODEL) if info.is_demo else (info.model_id,)
        return tuple(dict.fromkeys((*own, *self._aliases)))

    def resolve_model(self, wanted: str | None, info: ModelInfo) -> str | None:
        """The `model` of options: None for the resident model under any of its names, or without one.

        raises: ApiError 404 for another name
        """
        if wanted is None or self.takes_any_name or wanted in self.names_of(info):
            return None
        raise ApiError(
            404,
            "model_not_found",
            f"The model {wanted[:100]!r} is not served here; these are: {', '.join(self.names_of(info))}. "
            "`serve --model-alias NAME` adds a name, --any-model takes all.",
            param="model",
        )

    @property
    def failure(self) -> EngineError | None:
        """The reason why no model can be loaded, None without one."""
        return self.supervisor.failure

    @property
    def worker_process_id(self) -> int | None:
        """The running worker's process id."""
        return self.supervisor.process_id

    @property
    def worker_deaths(self) -> int:
        """Number of workers that have died since the start."""
        return self.supervisor.died_workers

    @property
    def breaker(self) -> BreakerState:
        """State of the circuit breaker, which too many deaths open."""
        return self.supervisor.breaker

    @property
    def is_stalled(self) -> bool:
        """True while a worker that stalled is being replaced."""
        return self.supervisor.is_stalled

    @property
    def is_closed(self) -> bool:
        """True when nothing more is admitted because the server is stopping."""
        return self._is_closed

    @property
    def admitted(self) -> int:
        """Number of recordings admitted: being received or transcoded, waiting, or in flight."""
        return self._admitted

    @property
    def waiting_count(self) -> int:
        """Number of recordings that no worker holds yet."""
        return max(0, self._admitted - self._in_flight.held_count)

    @property
    def held_count(self) -> int:
        """Number of recordings in flight."""
        return self._in_flight.held_count

    def stderr_lines(self) -> list[str]:
        """The newest lines of the running worker's standard error, such as a download's progress."""
        return self.supervisor.stderr_lines()

    def unavailable(self) -> EngineUnavailable:
        """The error of an engine that is not ready, with the reason and the time until a retry makes sense."""
        if seconds := self.supervisor.resting_seconds:
            seconds += self.info.load_seconds if self.info is not None else 0.0
            return EngineResting(self.supervisor.why_not_ready(), retry_after_seconds=math.ceil(seconds))
        return EngineUnavailable(self.supervisor.why_not_ready())

    async def wait_settled(self) -> EngineState:
        """Wait until the engine is ready, or cannot become ready (`failed`, `stopping`, `stopped`)."""
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

    # ---- requests --------------------------------------------------------------------------------------------

    def check_admission(self, *, is_patient: bool = False) -> None:
        """Refuse what `admission` would refuse at once; raises EngineBusy, EngineUnavailable, a model error.

        is_patient: of a job, which waits for a place and for the next worker: refused only if it can never be answered.
        """
        self._check_not_over()
        if self._is_closed:
            raise EngineUnavailable("The server is stopping.")
        if is_patient:
            return
        self._check_not_resting()
        if self._admitted >= self._max_queued_requests:
            raise EngineBusy(f"{self._max_queued_requests} recordings wait already; try again shortly.")

    @contextlib.asynccontextmanager
    async def admission(self) -> AsyncIterator[ModelInfo]:
        """A place for one recording, from before its body is read to its answer; yields the ready model.

        raises: as check_admission, at once, and as wait_ready
        """
        self.check_admission()
        self._admitted += 1
        try:
            yield await self.wait_ready()
        finally:
            self._admitted -= 1

    async def transcribe(
        self,
        source: AudioSource,
        options: TranscribeOptions,
        *,
        owner: str,
        priority: Literal["interactive", "background"] = "interactive",
        wants_deltas: bool = False,
        wants_segments: bool = False,
        audio_ended: asyncio.Future[AudioOutcome] | None = None,
        attempts: int | None = None,
        runs_alone: bool = False,
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        """Transcribe one recording, whose caller holds an `admission`: its events, of which `Completed` is the last.

        Closing the generator, or cancelling the task that awaits it, cancels the work at its next step.
        wants_deltas, wants_segments: yield text as it is decoded, and segments as they end.
        audio_ended: of a growing source, its outcome; it must not end in an exception.
        attempts: workers that may die with it before it fails: by default 2 for interactive work, and 1 for
        background work, whose deaths the job store counts. From the third attempt on it runs alone.
        runs_alone: nothing else is in flight with it, from the first attempt on.
        raises: EngineUnavailable, EngineCrashed, and whatever the engine answers.
        """
        self._check_not_over()
        self._check_not_resting()
        if attempts is None:
            attempts = (
                ATTEMPTS_WHILE_SOMEBODY_WAITS if priority == "interactive" else ATTEMPTS_IN_THE_BACKGROUND
            )
        message = Transcribe(
            secrets.token_hex(16), source, options, owner, priority, wants_segments, wants_deltas
        )
        request = EngineRequest(message, attempts=attempts, runs_alone=runs_alone, audio_ended=audio_ended)
        if audio_ended is not None:
            audio_ended.add_done_callback(lambda _: self._send_audio_end(request))
        self._in_flight.add(request)
        self._send_next()
        try:
            async with contextlib.aclosing(request.events()) as events:
                async for event in events:
                    yield event
        finally:
            if not request.is_over:
                request.is_over = True
                if self._in_flight.held(request.request_id) is not None:
                    self.supervisor.send(Cancel(request.request_id))
            self._in_flight.withdraw(request)
            self._send_next()

    def _send_next(self) -> None:
        """Send the worker the requests that it may hold now."""
        while self.state == "ready" and (request := self._in_flight.take_next()) is not None:
            self.supervisor.send(request.message)
            self._send_audio_end(request)

    def _send_audio_end(self, request: EngineRequest) -> None:
        if (
            self._in_flight.held(request.request_id) is not None
            and (ended := request.audio_end()) is not None
        ):
            self.supervisor.send(ended)

    def _check_not_over(self) -> None:
        if self.state == "failed":
            raise self.failure or EngineUnavailable("The model cannot be loaded.")
        if self.state in ("stopping", "stopped"):
            raise EngineUnavailable("The server is stopping.")

    def _check_not_resting(self) -> None:
        if self.state != "ready" and self.supervisor.resting_seconds:
            raise self.unavailable()

    async def _next_change(self) -> None:
        await self._state_changed.wait()

    # ---- the supervisor's events -----------------------------------------------------------------------------

    def on_message(self, message: FromWorker) -> None:
        """Route a worker's message to its request; messages of abandoned requests are dropped."""
        if isinstance(message, Heartbeat):
            self.statistics.receive(message)
        request = self._in_flight.held(getattr(message, "request_id", ""))
        if request is None:
            return
        is_end = isinstance(message, Completed | Failed)
        if is_end:
            self._in_flight.release(request.request_id)
        was_over = request.is_over
        request.receive(message)
        if is_end:
            self._send_next()
        elif request.is_over and not was_over:
            # It cannot continue the text that was sent already.
            self.supervisor.send(Cancel(request.request_id))

    def on_state(self, state: EngineState) -> None:
        """Wake callers that wait for the engine, and send or refuse the requests that wait for a worker."""
        self._state_changed.set()
        self._state_changed = asyncio.Event()
        if state == "failed":
            self._refuse_waiting(self.failure or EngineUnavailable("The model cannot be loaded."))
        elif state in ("stopping", "stopped"):
            self._refuse_waiting(EngineUnavailable("The server is stopping."))
        elif state == "ready":
            self._send_next()
        elif self.supervisor.resting_seconds:
            self._refuse_waiting(self.unavailable())

    def on_death(self, reason: str) -> None:
        """Let the requests that the dead worker held wait for the next one, or fail them."""
        self.statistics.forget_worker()
        held = [request for request in self._in_flight.drop_all() if not request.is_over]
        if self.state in ("stopping", "stopped"):
            for request in held:
                request.fail(EngineUnavailable("The server stopped before this was done."))
            return
        for request in held:
            request.lose_worker(reason)
        self._in_flight.take_back(tuple(request for request in held if not request.is_over))
        if self.state == "failed":
            self._refuse_waiting(self.failure or EngineUnavailable("The model cannot be loaded."))

    def _refuse_waiting(self, error: EngineError) -> None:
        for request in self._in_flight.waiting:
            self._in_flight.withdraw(request)
            request.fail(error)
