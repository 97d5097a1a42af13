"""The server's one way to the engine: `await client.transcribe(...)`.

Every request gets exactly one end: a transcript, an engine error, or the cancellation of whoever awaits it. The
client bounds how many are in hand, waits a while for an engine that is starting, and fails what a dead worker held.
It does not hand work out again after a death; that comes with the durable job store.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from engine.protocol.config import ModelInfo, TranscribeOptions
from engine.protocol.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineUnavailable,
    error_from_code,
)
from engine.protocol.launch import WORKER_MODULE
from engine.protocol.messages import (
    AudioEnded,
    AudioSource,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Partial,
    Progress,
    Started,
    TextDelta,
    Transcribe,
)
from engine.protocol.transcript import Segment, Transcript
from server.engine_supervisor import EngineState, EngineSupervisor
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class AudioOutcome:
    """What became of audio that was still being written when the engine got it: its samples, or why it ended."""

    sample_count: int
    failure: EngineError | None = None


@dataclass(slots=True)
class _Pending:
    """A request in the worker's hands."""

    future: asyncio.Future[Transcript]
    on_started: Callable[[], None] | None
    on_progress: Callable[[Progress], None] | None
    on_partial: Callable[[Segment], None] | None
    on_delta: Callable[[TextDelta], None] | None


class EngineClient:
    """Requests in, transcripts out; lives on one event loop."""

    def __init__(
        self, supervisor: EngineSupervisor, *, max_queued_requests: int = 256, wait_seconds: float = 15.0
    ) -> None:
        self._supervisor = supervisor
        self._max_queued_requests = max_queued_requests
        self._wait_seconds = wait_seconds
        self._pending: dict[str, _Pending] = {}
        self._admitted = 0
        self._state_changed = asyncio.Event()

    @classmethod
    def from_settings(cls, settings: Settings, *, module: str = WORKER_MODULE) -> EngineClient:
        """A client with its supervisor; `module` replaces the worker's module (the fake)."""
        supervisor = EngineSupervisor(
            settings.engine_config(), module=module, load_timeout_seconds=settings.load_timeout_seconds
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

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Stop the worker; requests still in hand after the time fail with EngineCrashed."""
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

    def last_words(self) -> list[str]:
        """The newest lines of the living worker's standard error, such as a download's progress."""
        return self._supervisor.last_words()

    async def wait_settled(self) -> EngineState:
        """Wait until the engine is ready, or never will be (`failed`, `stopping`, `stopped`)."""
        while self.state in ("starting", "restarting"):
            await self._next_change()
        return self.state

    async def wait_ready(self) -> ModelInfo:
        """The loaded model, after a bounded wait for an engine that is starting.

        raises: EngineUnavailable, or the model's own error when it cannot be loaded.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self.wait_settled()
        except TimeoutError:
            raise EngineUnavailable("The model is still loading; try again shortly.") from None
        self.check_usable()
        if self.info is None:
            raise EngineUnavailable("The model is not loaded.")
        return self.info

    # ---- work ------------------------------------------------------------------------------------------------

    def check_admission(self) -> None:
        """Refuse early what would be refused anyway; raises EngineBusy, EngineUnavailable, a model error."""
        self.check_usable()
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
    ) -> Transcript:
        """Transcribe one recording; cancelling the awaiting task cancels the work at its next step.

        audio_ended: of a growing source, what becomes of it; it must not end in an exception.
        is_admitted: the caller holds an `admission` already.
        Callbacks run on the event loop and must not block.
        raises: EngineBusy, EngineUnavailable, EngineCrashed, and whatever the engine answers.
        """
        with contextlib.nullcontext() if is_admitted else self.admission():
            await self.wait_ready()
            return await self._exchange(
                Transcribe(
                    request_id=secrets.token_hex(16),
                    audio=source,
                    options=options,
                    owner=owner,
                    priority=priority,
                    wants_partials=on_partial is not None,
                    wants_deltas=on_delta is not None,
                ),
                _Pending(
                    asyncio.get_running_loop().create_future(), on_started, on_progress, on_partial, on_delta
                ),
                audio_ended,
            )

    async def _exchange(
        self, message: Transcribe, pending: _Pending, audio_ended: asyncio.Future[AudioOutcome] | None
    ) -> Transcript:
        if not self._supervisor.send(message):
            raise EngineUnavailable("The engine is between two workers; try again shortly.")
        self._pending[message.request_id] = pending
        if audio_ended is not None:
            audio_ended.add_done_callback(lambda ended: self._tell_audio_ended(message.request_id, ended))
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._supervisor.send(Cancel(message.request_id))
            raise
        finally:
            self._pending.pop(message.request_id, None)

    def _tell_audio_ended(self, request_id: str, ended: asyncio.Future[AudioOutcome]) -> None:
        if request_id in self._pending and not ended.cancelled():
            outcome = ended.result()
            error = outcome.failure
            failure = None if error is None else (error.code, error.message, error.parameter)
            self._supervisor.send(AudioEnded(request_id, outcome.sample_count, failure))

    def check_usable(self) -> None:
        """Refuse what could never be answered; raises EngineUnavailable, a model error."""
        if self.state == "failed":
            raise self.failure or EngineUnavailable("The model cannot be loaded.")
        if self.state in ("stopping", "stopped"):
            raise EngineUnavailable("The server is stopping.")

    async def _next_change(self) -> None:
        await self._state_changed.wait()

    # ---- what the supervisor tells ---------------------------------------------------------------------------

    def on_message(self, message: FromWorker) -> None:
        """Route a worker's message to its request; those of requests given up meanwhile are dropped."""
        request_id = getattr(message, "request_id", None)
        pending = self._pending.get(request_id) if request_id is not None else None
        if pending is None or pending.future.done():
            return
        match message:
            case Completed():
                pending.future.set_result(message.transcript)
            case Failed():
                pending.future.set_exception(
                    error_from_code(message.code, message.message, message.parameter)
                )
            case Started() if pending.on_started is not None:
                pending.on_started()
            case Progress() if pending.on_progress is not None:
                pending.on_progress(message)
            case Partial() if pending.on_partial is not None:
                pending.on_partial(message.segment)
            case TextDelta() if pending.on_delta is not None:
                pending.on_delta(message)
            case _:
                pass

    def on_state(self, state: EngineState) -> None:
        """Wake whoever waits for the engine."""
        self._state_changed.set()
        self._state_changed = asyncio.Event()

    def on_death(self, reason: str) -> None:
        """Fail what the dead worker held; a new worker is on its way."""
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(
                    EngineCrashed(f"The engine stopped while it worked on this ({reason}); try again.")
                )
