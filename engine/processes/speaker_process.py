"""A speaker child as its parent holds it, on an event loop: given one recording at a time, watched, and ended.

A child that dies, falls silent, sends what it may not or takes longer than it may ends in SpeakersFailed, never in
silence, and says how its process ended.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import NoReturn, Self

from scribewire.engine.processes.async_child import AsyncChild
from scribewire.engine.processes.child import KILL_SECONDS
from scribewire.engine.processes.launch import SPEAKER_CHILD_MODULE, start_speaker_child
from scribewire.engine.protocol.errors import SpeakersFailed, SpeakersUnavailable
from scribewire.engine.protocol.speakers import (
    DiarizationConfig,
    Diarize,
    Diarized,
    DiarizeFailed,
    DiarizeProgress,
    DiarizerReady,
    DiarizerUnavailable,
    FromDiarizer,
    StopDiarizing,
    ToDiarizer,
)

START_SECONDS = 1800.0
"""A pipeline may have to be downloaded first."""

STOP_SECONDS = 5.0
"""A child that is to leave a recording and does not within this time is killed."""

SILENCE_SECONDS = 300.0
"""A child that sends no sign of life for so long is killed. A single step of a library may hold Python's lock."""

_NAME = "the process that tells speakers apart"


class SpeakerProcess:
    """One child, just started: `wait_ready` waits until it accepts recordings. One recording at a time."""

    def __init__(
        self, messages: AsyncChild[ToDiarizer, FromDiarizer], *, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._messages = messages
        self._silence_seconds = silence_seconds
        self._task_id = 0
        self.child = messages.child
        self.gone = messages.gone
        self.device = ""

    @classmethod
    async def start(
        cls,
        config: DiarizationConfig,
        *,
        module: str = SPEAKER_CHILD_MODULE,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> Self:
        """A child; raises SpeakersFailed when there can be none."""
        try:
            # Milliseconds, and seldom: a thread whose waiter is cancelled could leave a child behind.
            child = start_speaker_child(config, module=module)
        except OSError as error:
            raise SpeakersFailed(f"{_NAME} cannot be started: {error}") from error
        return cls(await AsyncChild.of(child), silence_seconds=silence_seconds)

    async def wait_ready(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until the pipeline is loaded; raises SpeakersUnavailable, SpeakersFailed."""
        message = await self._next(timeout_seconds)
        if isinstance(message, DiarizerUnavailable):
            raise SpeakersUnavailable(message.message)
        if not isinstance(message, DiarizerReady):
            await self._fail(f"{_NAME} sent an unexpected message")
        self.device = message.device

    async def diarize(
        self,
        task: Diarize,
        *,
        timeout_seconds: float,
        on_progress: Callable[[DiarizeProgress], None] | None = None,
    ) -> Diarized:
        """Diarize one recording; task_id is set here. Cancelling stops it, by a message or by the child's death.

        raises: SpeakersFailed (the child died, was too slow, or could not do it)
        """
        self._task_id += 1
        self._messages.send(dataclasses.replace(task, task_id=self._task_id))
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._end_of_task(on_progress)
        except TimeoutError:
            await self._fail("telling the speakers apart took longer than it may")
        except asyncio.CancelledError:
            self._messages.send(StopDiarizing(self._task_id))
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._end_of_task(None)
            except SpeakersFailed:
                pass  # the child's answer to a stop, or its death
            except (TimeoutError, asyncio.CancelledError):
                self.child.kill()
            raise

    async def close(self) -> None:
        """End the child, reap it, and close the pipes."""
        self.child.kill()
        await self._messages.end()

    async def _end_of_task(self, on_progress: Callable[[DiarizeProgress], None] | None) -> Diarized:
        while True:
            message = await self._next(self._silence_seconds)
            if isinstance(message, DiarizeProgress):
                if on_progress is not None:
                    on_progress(message)
            elif isinstance(message, Diarized) and message.task_id == self._task_id:
                return message
            elif isinstance(message, DiarizeFailed) and message.task_id == self._task_id:
                raise SpeakersFailed(message.message)
            else:
                await self._fail(f"{_NAME} sent an unexpected message")

    async def _next(self, timeout_seconds: float) -> FromDiarizer:
        try:
            message = await self._messages.next_message(timeout_seconds)
        except TimeoutError:
            await self._fail(f"{_NAME} said nothing for {timeout_seconds:g} s")
        if message is None:
            await self._fail(f"{_NAME} died")
        return message

    async def _fail(self, reason: str) -> NoReturn:
        # One that is dying already keeps its own exit code.
        await self._messages.wait_gone(0.2)
        self.child.kill()
        await self._messages.wait_gone(KILL_SECONDS)
        raise SpeakersFailed(f"{reason} ({self.child.exit_in_words()})")
