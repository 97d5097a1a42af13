"""Uploads to samples that the engine maps, by a few warm transcoding children: one recording each at a time, in order.

The front never opens a recording. A child that crashes, hangs or exceeds its limits ends that one recording, with
`audio_undecodable`, and is replaced at once. Interactive recordings go first, and jobs never hold every child.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scribewire.engine.processes.launch import TRANSCODE_CHILD_MODULE, start_transcode_child
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import EngineUnavailable
from scribewire.engine.protocol.messages import AudioSource
from scribewire.engine.protocol.transcoding import TranscodeLimits
from scribewire.server.engine.client import AudioOutcome
from scribewire.server.observability.logs import log_event
from scribewire.server.settings.fields import Settings
from scribewire.server.transcode.process import (
    SAMPLE_BYTES,
    TranscodeProcess,
    TranscodeTask,
    no_room_for_samples,
)

BEGINS_AFTER_SECONDS = 40.0
"""Audio that is enough to begin with: a whole chunk, and the stretch where it may be cut."""

MAX_FAILED_STARTS = 3
"""After this number of children in a row that never became ready, waiting recordings fail."""

_RESTART_PAUSE_SECONDS = 1.0

logger = logging.getLogger("scribewire.decoding")


def _nothing() -> None:
    """Close a recording that holds nothing."""


@dataclass(slots=True)
class TranscodedRecording:
    """A recording as the engine takes it; its holder closes it.

    ended: of a growing source, its outcome (it never ends in an exception); None when it is complete.
    warnings: one line each, complete once `ended` is done. failure: then, why transcoding ended early, if it did.
    lead_seconds: time of transcoding until there was enough to begin with. decode_seconds: then, time of all of it.
    """

    source: AudioSource
    ended: asyncio.Future[AudioOutcome] | None = None
    warnings: tuple[str, ...] = ()
    failure: Exception | None = None
    lead_seconds: float = 0.0
    decode_seconds: float = 0.0
    on_close: Callable[[], None] = _nothing

    def close(self) -> None:
        """Remove the samples and stop the work on them; closing again is no error."""
        self.on_close()


class Transcoder(Protocol):
    """Interface of what turns an upload into samples for the engine."""

    async def start(self) -> None:
        """Begin to work, on the running event loop."""

    async def stop(self) -> None:
        """End all work."""

    async def transcode(self, upload_path: Path, *, is_interactive: bool) -> TranscodedRecording:
        """The samples, as soon as enough of them can be read; cancelling the awaiting task stops the work.

        raises: AudioError, EngineUnavailable, ApiError 507
        """


class TranscodePool:
    """A Transcoder with its children, the tasks that wait for one, and the tasks that have one."""

    def __init__(
        self,
        *,
        processes: int = 2,
        timeout_seconds: float = 600.0,
        memory_bytes: int = 512 << 20,
        audio_limits: AudioLimits | None = None,
        begins_after_seconds: float = BEGINS_AFTER_SECONDS,
        recordings_per_process: int = 1000,
        module: str = TRANSCODE_CHILD_MODULE,
    ) -> None:
        """timeout_seconds: of one recording, in processor time and on the clock. module: the children's program."""
        self._audio_limits = audio_limits or AudioLimits()
        self._process_limits = TranscodeLimits(
            cpu_seconds=math.ceil(timeout_seconds),
            memory_bytes=memory_bytes,
            file_bytes=int(self._audio_limits.max_duration_seconds + 60) * SAMPLE_RATE_HZ * SAMPLE_BYTES,
            recordings=recordings_per_process,
        )
        self._process_count = processes
        self._module = module
        self._timeout_seconds = timeout_seconds
        self._begins_after_samples = int(begins_after_seconds * SAMPLE_RATE_HZ)
        self._processes: set[TranscodeProcess] = set()
        self._background: set[TranscodeProcess] = set()
        self._waiting: dict[bool, deque[TranscodeTask]] = {True: deque(), False: deque()}
        self._starting: set[asyncio.Task[None]] = set()
        self._failed_starts = 0
        self._is_running = False
        self._stopped = asyncio.Event()

    @classmethod
    def from_settings(cls, settings: Settings) -> TranscodePool:
        """A pool with the limits of the settings."""
        return cls(
            processes=settings.decode_processes,
            timeout_seconds=settings.decode_timeout_seconds,
            memory_bytes=settings.decode_memory_bytes,
            audio_limits=settings.engine_config().audio,
        )

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the running children."""
        return [one.process_id for one in self._processes if one.process_id is not None]

    # ---- lifecycle -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to start the children; returns at once, and recordings wait for the first one that is ready."""
        self._is_running = True
        for _ in range(self._process_count):
            self._start_another(0.0)

    async def stop(self) -> None:
        """End the children; all tasks fail with EngineUnavailable. Stopping again is no error."""
        self._is_running = False
        self._stopped.set()
        stopping = EngineUnavailable("The server is stopping.")
        self._refuse_waiting(stopping)
        # A child that is being started is dismissed by the task that starts it.
        await asyncio.gather(*self._starting, return_exceptions=True)
        processes = list(self._processes)
        for process in processes:
            process.dismiss(stopping)
        await asyncio.gather(*(process.gone.wait() for process in processes))

    def _start_another(self, pause_seconds: float) -> None:
        task = asyncio.create_task(self._start(pause_seconds), name="decode-start")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, pause_seconds: float) -> None:
        while self._is_running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._stopped.wait()
                    return
            try:
                handle = await asyncio.to_thread(
                    start_transcode_child, self._process_limits, module=self._module
                )
            except OSError as error:  # out of processes, descriptors or memory, which may be temporary
                log_event(logger, logging.ERROR, "decode_child_not_started", error=str(error))
                self._count_failed_start()
                pause_seconds = _RESTART_PAUSE_SECONDS
                continue
            self._processes.add(TranscodeProcess(handle, on_change=self._on_change, on_gone=self._on_gone))
            return

    def _count_failed_start(self) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS and not self._processes:
            self._refuse_waiting(EngineUnavailable("Recordings cannot be decoded now; try again shortly."))

    def _refuse_waiting(self, error: EngineUnavailable) -> None:
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().fail(error)

    def _on_change(self, process: TranscodeProcess) -> None:
        self._failed_starts = 0
        if process.task is None:
            self._background.discard(process)
        self._assign()

    def _on_gone(self, process: TranscodeProcess, lost: TranscodeTask | None) -> None:
        if lost is not None:
            lost.times_lost += 1
            if lost.times_lost < MAX_FAILED_STARTS:
                self._waiting[process not in self._background].appendleft(lost)
            else:
                lost.fail(EngineUnavailable("Recordings cannot be decoded now; try again shortly."))
        self._processes.discard(process)
        self._background.discard(process)
        if not process.was_ready:
            self._count_failed_start()
        if self._is_running:
            self._start_another(0.0 if process.was_ready else _RESTART_PAUSE_SECONDS)
            self._assign()

    # ---- work ------------------------------------------------------------------------------------------------

    async def transcode(self, upload_path: Path, *, is_interactive: bool) -> TranscodedRecording:
        """See Transcoder; the samples are beside the upload until the recording is closed.

        Returns when everything is transcoded, or after `begins_after_seconds` of audio while the child continues.
        """
        if not self._is_running:
            raise EngineUnavailable("The server is stopping.")
        task = TranscodeTask(
            upload_path,
            _make_samples_file(upload_path.parent),
            self._audio_limits,
            begins_after_samples=self._begins_after_samples,
        )
        try:
            self._waiting[is_interactive].append(task)
            self._assign()
            # Not the future itself, which a cancelled caller would cancel too.
            await asyncio.wait({task.enough})
            if task.failure is not None:
                raise task.failure
        except BaseException:
            self._drop(task)
            raise
        return self._recording(task)

    def _recording(self, task: TranscodeTask) -> TranscodedRecording:
        is_growing = not task.ended.done()
        recording = TranscodedRecording(
            AudioSource(
                str(task.output_path),
                kind="pcm_float32",
                is_growing=is_growing,
                expected_seconds=task.expected_seconds,
            ),
            ended=task.ended if is_growing else None,
            warnings=task.warnings,
            lead_seconds=task.lead_seconds,
            decode_seconds=task.decode_seconds,
            on_close=lambda: self._drop(task),
        )

        def on_ended(_: asyncio.Future[AudioOutcome]) -> None:
            recording.warnings, recording.failure = task.warnings, task.failure
            recording.decode_seconds = task.decode_seconds

        task.ended.add_done_callback(on_ended)
        return recording

    def _drop(self, task: TranscodeTask) -> None:
        """Remove a task's samples, and the task itself from the queue or from its child."""
        for waiting in self._waiting.values():
            if task in waiting:
                waiting.remove(task)
        for process in self._processes:
            process.stop(task)
        task.output_path.unlink(missing_ok=True)

    def _assign(self) -> None:
        for process in [one for one in self._processes if one.is_free]:
            jobs_may = len(self._background) < max(1, self._process_count - 1)
            is_interactive = bool(self._waiting[True])
            waiting = self._waiting[is_interactive]
            if not waiting or not (is_interactive or jobs_may):
                return
            if process.begin(waiting[0], timeout_seconds=self._timeout_seconds):
                waiting.popleft()
                if not is_interactive:
                    self._background.add(process)


def _make_samples_file(folder: Path) -> Path:
    """An empty file that only this user reads: the child opens it and makes none, so a swept file is not made again."""
    path = folder / f"samples-{secrets.token_hex(8)}.f32"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room_for_samples() from None
        raise
    return path
