"""Diarization in one child process beside the engine: started at the first request, one recording at a time.

The child is kept for the next recording and ended when none comes for a while. A death is logged at once, and the next
recording has another child. Cancelling the awaiting task stops its recording, by a message or else by killing the
child. A missing dependency or a failure reaches the waiter as an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from scribewire.engine.processes.launch import SPEAKER_CHILD_MODULE
from scribewire.engine.processes.speaker_process import SILENCE_SECONDS, SpeakerProcess
from scribewire.engine.protocol.errors import EngineUnavailable, SpeakersFailed, SpeakersUnavailable
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
    """The child and its waiters; lives on one event loop."""

    def __init__(
        self,
        config: DiarizationConfig,
        *,
        timeout_seconds: float,
        idle_seconds: float = IDLE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        module: str = SPEAKER_CHILD_MODULE,
    ) -> None:
        """timeout_seconds: longest time of one recording. module: the child's program."""
        self._config = config
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._silence_seconds = silence_seconds
        self._module = module
        self._turn = asyncio.Lock()
        self._process: SpeakerProcess | None = None
        self._is_stopping = False
        self._waiting = 0
        self._tasks: set[asyncio.Task[Any]] = set()
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
        return self._process.child.process_id if self._process is not None else None

    async def check(self) -> None:
        """Wait until a child is ready, with its model loaded; raises SpeakersUnavailable, SpeakersFailed."""
        if self._process is not None and self._process.child.is_alive and self._process.device:
            return
        try:
            await self._in_turn(self._ready)
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
        return await self._in_turn(partial(self._diarize, task))

    async def stop(self) -> None:
        """End the child; waiting and running work fails with EngineUnavailable. Stopping again is no error."""
        self._is_stopping = True
        self._stay()
        if self._process is not None:
            self._process.child.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leave()

    async def _in_turn(self, work: Callable[[], Awaitable[_Value]]) -> _Value:
        """Do the work when it is its turn. A caller who is cancelled does not wait for the child to let go."""
        task = self._in_background(self._alone(work))
        try:
            return await asyncio.shield(task)
        except (asyncio.CancelledError, SpeakersFailed):
            task.cancel()
            caller = asyncio.current_task()
            # Work may also be cancelled by the server's stop, and not by its caller.
            if self._is_stopping and not (caller is not None and caller.cancelling()):
                raise EngineUnavailable("The server is stopping.") from None
            raise

    async def _alone(self, work: Callable[[], Awaitable[_Value]]) -> _Value:
        self._waiting += 1
        self._stay()
        try:
            async with self._turn:
                if self._is_stopping:
                    raise EngineUnavailable("The server is stopping.")
                return await work()
        finally:
            self._waiting -= 1
            if not self._waiting and not self._is_stopping:
                loop = asyncio.get_running_loop()
                self._idle = loop.call_later(self._idle_seconds, lambda: self._in_background(self._leave()))

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _in_background(self, work: Coroutine[Any, Any, _Value]) -> asyncio.Task[_Value]:
        task = asyncio.create_task(work, name="speakers")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _diarize(self, task: Diarize) -> Diarized:
        process = await self._ready()
        return await process.diarize(task, timeout_seconds=self._timeout_seconds)

    async def _ready(self) -> SpeakerProcess:
        if self._process is not None and self._process.child.is_alive:
            return self._process
        await self._leave()
        process = self._process = await SpeakerProcess.start(
            self._config, module=self._module, silence_seconds=self._silence_seconds
        )
        process.gone.add_done_callback(lambda _: self._on_gone(process))
        try:
            await process.wait_ready()
        except BaseException:
            await self._leave()
            raise
        log_event(logger, logging.INFO, "speakers_ready", model=self._config.model, device=process.device)
        return process

    async def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close()

    def _on_gone(self, process: SpeakerProcess) -> None:
        """Log a death that was not wanted, whether or not there was work."""
        if self._process is not process or self._is_stopping:
            return
        self._process = None
        self._in_background(process.close())
        if process.child.exit_code:
            log_event(
                logger,
                logging.WARNING,
                "speaker_child_died",
                process_id=process.child.process_id,
                exit_code=process.child.exit_code,
                reason=process.child.exit_in_words(),
                last_words=process.child.last_lines(),
            )
