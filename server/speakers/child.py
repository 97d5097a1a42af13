"""Diarization in one child process beside the engine: started at the first request, one recording at a time.

The child is kept for the next recording and ended when none comes for a while. A dead one is replaced at the next
recording that needs it. Cancelling the awaiting task stops its recording, by a message or else by killing the child.
A missing dependency or a failure reaches the waiter as an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from scribewire.engine.processes.launch import SPEAKER_CHILD_MODULE
from scribewire.engine.processes.speaker_process import SpeakerProcess
from scribewire.engine.protocol.errors import (
    EngineUnavailable,
    RequestCancelled,
    SpeakersFailed,
    SpeakersUnavailable,
)
from scribewire.engine.protocol.speakers import (
    DiarizationConfig,
    Diarize,
    Diarized,
    SpeakerOptions,
    VoiceReference,
)
from scribewire.server.observability.logs import log_event
from scribewire.server.settings.fields import Settings

IDLE_SECONDS = 600.0
"""A child that was not needed for this time is ended, which frees its memory."""

logger = logging.getLogger("scribewire.speakers")

_Value = TypeVar("_Value")


class Speakers:
    """The child and its waiters; lives on one event loop, and in one thread that communicates with the child."""

    def __init__(
        self,
        config: DiarizationConfig,
        *,
        timeout_seconds: float,
        idle_seconds: float = IDLE_SECONDS,
        module: str = SPEAKER_CHILD_MODULE,
    ) -> None:
        """timeout_seconds: longest time of one recording. module: the child's program."""
        self._config = config
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._module = module
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="speakers")
        self._process: SpeakerProcess | None = None
        self._is_stopping = False
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, module: str = SPEAKER_CHILD_MODULE) -> Speakers:
        """Speakers with the limits of the settings."""
        return cls(
            DiarizationConfig(
                model=settings.diarization_model,
                device=settings.diarization_device,
                offline=settings.offline,
                memory_bytes=settings.diarization_memory_bytes,
            ),
            timeout_seconds=settings.diarization_timeout_seconds,
            module=module,
        )

    @property
    def process_id(self) -> int | None:
        """Process id of the running child, None without one."""
        process = self._process
        return process.process_id if process is not None and process.is_alive else None

    async def check(self) -> None:
        """Wait until a child is ready, with its model loaded; raises SpeakersUnavailable, SpeakersFailed."""
        if self.process_id is not None:
            return
        try:
            await self._in_turn(_ChildLease(), self._ready)
        except SpeakersUnavailable as error:
            raise SpeakersUnavailable(error.message, parameter="response_format") from None

    async def diarize(
        self, samples_path: str, options: SpeakerOptions, references: Sequence[VoiceReference] = ()
    ) -> Diarized:
        """Speaker turns of raw 16 kHz mono float32 samples; cancelling the awaiting task stops the work.

        raises: SpeakersUnavailable, SpeakersFailed, EngineUnavailable (the server stops)
        """
        task = Diarize(
            0,
            samples_path,
            options.num_speakers,
            options.min_speakers,
            options.max_speakers,
            tuple(references),
        )
        turn = _ChildLease()
        return await self._in_turn(turn, partial(self._diarize, task, turn))

    async def stop(self) -> None:
        """End the child; waiting and running work fails with EngineUnavailable. Stopping again is no error."""
        self._is_stopping = True
        self._stay()
        if self._process is not None:
            self._process.kill()
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)
        if self._process is not None:
            self._process.close()
            self._process = None

    # ---- on the event loop -----------------------------------------------------------------------------------

    async def _in_turn(self, turn: _ChildLease, work: Callable[[], _Value]) -> _Value:
        if self._is_stopping:
            raise EngineUnavailable("The server is stopping.")
        self._waiting += 1
        self._stay()
        try:
            return await asyncio.wrap_future(self._thread.submit(work))
        except asyncio.CancelledError:
            turn.cancel()
            # Work that waited for the thread is cancelled by the server's stop, not by its awaiting task.
            task = asyncio.current_task()
            if self._stops() and not (task is not None and task.cancelling()):
                raise EngineUnavailable("The server is stopping.") from None
            raise
        except SpeakersFailed:
            if self._is_stopping:
                raise EngineUnavailable("The server is stopping.") from None
            raise
        finally:
            self._waiting -= 1
            if not self._waiting and not self._is_stopping:
                loop = asyncio.get_running_loop()
                self._idle = loop.call_later(self._idle_seconds, self._thread.submit, self._leave)

    def _stops(self) -> bool:
        return self._is_stopping

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    # ---- on the thread ---------------------------------------------------------------------------------------

    def _ready(self) -> SpeakerProcess:
        if self._process is not None and self._process.is_alive:
            return self._process
        self._leave()
        try:
            process = SpeakerProcess(self._config, module=self._module)
        except OSError as error:
            raise SpeakersFailed(
                f"the process that tells speakers apart cannot be started: {error}"
            ) from error
        self._process = process
        try:
            if self._is_stopping:
                raise SpeakersFailed("the server is stopping")
            process.wait_ready()
        except BaseException as error:
            if isinstance(error, SpeakersFailed) and not self._is_stopping:
                self._log_death(process)
            self._leave()
            raise
        log_event(logger, logging.INFO, "speakers_ready", model=self._config.model, device=process.device)
        return process

    def _diarize(self, task: Diarize, turn: _ChildLease) -> Diarized:
        process = self._ready()
        with turn.held_by(process):
            try:
                return process.diarize(task, timeout_seconds=self._timeout_seconds)
            except SpeakersFailed:
                if not process.is_alive and not self._is_stopping:
                    self._log_death(process)
                raise
            finally:
                if not process.is_alive:
                    self._leave()

    def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _log_death(self, process: SpeakerProcess) -> None:
        log_event(
            logger,
            logging.WARNING,
            "speaker_child_died",
            process_id=process.process_id,
            last_words=process.last_words(),
        )


class _ChildLease:
    """One recording's lease of the child, which may be cancelled before, during and after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: SpeakerProcess | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                self._process.stop()

    @contextlib.contextmanager
    def held_by(self, process: SpeakerProcess) -> Iterator[None]:
        with self._lock:
            if self._is_cancelled:
                raise RequestCancelled("the diarization was stopped")
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None
