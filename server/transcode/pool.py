"""Uploads to samples that the engine maps, by a few warm transcoding children: one recording each at a time.

The front never opens a recording. A child that crashes, hangs or exceeds its limits ends that one recording, with
`audio_undecodable`, and is replaced at once. Recordings take turns (`scribewire.server.transcode.turns`): however many
long ones there are, a short one is served soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import secrets
import time
from pathlib import Path
from typing import Any, Protocol

from scribewire.engine.processes.launch import TRANSCODE_CHILD_MODULE, start_transcode_child
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import EngineUnavailable
from scribewire.engine.protocol.transcoding import TranscodeLimits
from scribewire.server.observability.logs import log_event
from scribewire.server.observability.loops import BackgroundLoops
from scribewire.server.settings.fields import Settings
from scribewire.server.transcode.process import (
    SAMPLE_BYTES,
    TranscodedRecording,
    TranscodeProcess,
    TranscodeTask,
    no_room_for_samples,
)
from scribewire.server.transcode.turns import FIRST_TURN_SECONDS, gives_way, next_in_turn

BEGINS_AFTER_SECONDS = 40.0
"""Audio that is enough to begin with: a whole chunk, and the stretch where it may be cut."""

MAX_FAILED_STARTS = 3
"""After this number of children in a row that never became ready, waiting recordings fail."""

_RESTART_PAUSE_SECONDS = 1.0
_CLAIM_SECONDS = 0.5
"""Interval at which recordings that wait look for one whose turn is over."""

logger = logging.getLogger("scribewire.decoding")


class Transcoder(Protocol):
    """Interface of what turns an upload into samples for the engine."""

    async def start(self) -> None:
        """Begin to work, on the running event loop."""

    async def stop(self) -> None:
        """End all work."""

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        """The samples, as soon as enough of them can be read; cancelling the awaiting task stops the work.

        owner: whose recordings take turns with those of others.
        raises: AudioError, EngineUnavailable, ApiError 507
        """


class TranscodePool:
    """A Transcoder with its children, the tasks that wait for one, and the tasks that have one."""

    def __init__(
        self,
        *,
        processes: int = 3,
        timeout_seconds: float = 600.0,
        memory_bytes: int = 512 << 20,
        audio_limits: AudioLimits | None = None,
        begins_after_seconds: float = BEGINS_AFTER_SECONDS,
        recordings_per_process: int = 1000,
        module: str = TRANSCODE_CHILD_MODULE,
        loops: BackgroundLoops | None = None,
    ) -> None:
        """timeout_seconds: of one recording, in processor time and on the clock. module: the children's program.

        processes: of several, one is kept for recordings that have not had a turn.
        """
        self._audio_limits = audio_limits or AudioLimits()
        self._process_limits = TranscodeLimits(
            cpu_seconds=math.ceil(timeout_seconds),
            memory_bytes=memory_bytes,
            file_bytes=int(self._audio_limits.max_duration_seconds + 60) * SAMPLE_RATE_HZ * SAMPLE_BYTES,
            recordings=recordings_per_process,
        )
        self._process_count = processes
        self._module = module
        self._loops = loops or BackgroundLoops()
        self._timeout_seconds = timeout_seconds
        self._begins_after_samples = int(begins_after_seconds * SAMPLE_RATE_HZ)
        self._waiting: list[TranscodeTask] = []
        self._running: list[TranscodeTask] = []
        self._free: dict[TranscodeProcess, asyncio.Future[TranscodeTask]] = {}
        self._processes: set[TranscodeProcess] = set()
        self._places: list[asyncio.Task[None]] = []
        self._failed_starts = 0
        self._stopped = asyncio.Event()
        self._look_again: asyncio.TimerHandle | None = None

    @classmethod
    def from_settings(cls, settings: Settings, loops: BackgroundLoops) -> TranscodePool:
        """A pool with the limits of the settings."""
        return cls(
            processes=settings.decode_processes,
            timeout_seconds=settings.decode_timeout_seconds,
            memory_bytes=settings.decode_memory_bytes,
            audio_limits=settings.engine_config().audio,
            loops=loops,
        )

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the running children."""
        return [one.child.process_id for one in self._processes]

    async def start(self) -> None:
        """Begin to start the children; returns at once, and recordings wait for the first one that is ready."""
        self._places = [
            asyncio.create_task(self._loops.keep("decode-child", self._keep_child))
            for _ in range(self._process_count)
        ]

    async def stop(self) -> None:
        """End the children; all tasks fail with EngineUnavailable. Stopping again is no error."""
        self._stopped.set()
        stopping = EngineUnavailable("The server is stopping.")
        self._refuse_waiting(stopping)
        for process in self._processes:
            if process.task is not None:
                process.task.fail(stopping)
            process.child.kill()
        await asyncio.gather(*self._places)

    # ---- children, each in its place -------------------------------------------------------------------------

    async def _keep_child(self) -> None:
        """Run one child after another until the pool stops."""
        pause_seconds = 0.0
        while not await self._is_stopped_within(pause_seconds):
            was_ready = await self._run_child()
            pause_seconds = 0.0 if was_ready else _RESTART_PAUSE_SECONDS
            if not was_ready and not self._stopped.is_set():
                self._failed_starts += 1
                if self._failed_starts >= MAX_FAILED_STARTS and not self._processes:
                    self._refuse_waiting(_unavailable())

    async def _is_stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def _run_child(self) -> bool:
        """Start a child and have it do tasks until it leaves or dies; False when it was never ready."""
        try:
            child = await asyncio.to_thread(start_transcode_child, self._process_limits, module=self._module)
        except OSError as error:  # out of processes, descriptors or memory, which may be temporary
            log_event(logger, logging.ERROR, "decode_child_not_started", error=str(error))
            return False
        process = TranscodeProcess(child)
        self._processes.add(process)
        if self._stopped.is_set():
            child.kill()
        try:
            await self._serve_with(process)
        except BaseException:  # the place goes on with another child, and the recording has an end
            if process.task is not None:
                process.task.fail(_unavailable())
                self._running.remove(process.task)
            child.kill()
            raise
        finally:
            self._processes.discard(process)
        await process.end(is_wanted=self._stopped.is_set())
        return process.was_ready

    async def _serve_with(self, process: TranscodeProcess) -> None:
        """Have a child do tasks until it leaves or dies."""
        if not await process.wait_ready():
            return
        self._failed_starts = 0
        while not process.is_leaving and (task := await self._next_task(process)) is not None:
            is_done = await process.transcode(task, timeout_seconds=self._timeout_seconds)
            self._running.remove(task)
            if not is_done:
                self._wait_again(task)

    async def _next_task(self, process: TranscodeProcess) -> TranscodeTask | None:
        """The next task for a free child; None when the child has died."""
        given: asyncio.Future[TranscodeTask] = asyncio.get_running_loop().create_future()
        self._free[process] = given
        self._assign()
        either: set[asyncio.Future[Any]] = {given, process.gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        self._free.pop(process, None)
        return given.result() if given.done() else None

    def _wait_again(self, task: TranscodeTask) -> None:
        """Wait for another turn, unless no child ever opens this recording."""
        task.began_at = None
        if task.times_lost >= MAX_FAILED_STARTS or self._stopped.is_set():
            task.fail(_unavailable())
        else:
            self._waiting.append(task)
            self._assign()

    def _refuse_waiting(self, error: EngineUnavailable) -> None:
        while self._waiting:
            self._waiting.pop().fail(error)

    # ---- tasks -----------------------------------------------------------------------------------------------

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        """See Transcoder; the samples are beside the upload until the recording is closed.

        Returns when everything is transcoded, or after `begins_after_seconds` of audio while the child continues.
        """
        if self._stopped.is_set() or not self._places:
            raise EngineUnavailable("The server is stopping.")
        task = TranscodeTask(
            upload_path,
            _make_samples_file(upload_path.parent),
            self._audio_limits,
            begins_after_samples=self._begins_after_samples,
            is_interactive=is_interactive,
            owner=owner,
        )
        try:
            self._waiting.append(task)
            self._assign()
            # Not the future itself, which a cancelled caller would cancel too.
            await asyncio.wait({task.enough})
            if task.recording.failure is not None:
                raise task.recording.failure
        except BaseException:
            self._drop(task)
            raise
        task.recording.on_close = lambda: self._drop(task)
        return task.recording

    def _drop(self, task: TranscodeTask) -> None:
        """Remove a task's samples, and the task itself from the queue or from its child."""
        if task in self._waiting:
            self._waiting.remove(task)
        for process in self._processes:
            process.stop(task)
        task.output_path.unlink(missing_ok=True)

    def _assign(self) -> None:
        """Give free children to those whose turn it is, and have one whose turn is over give way."""
        now = time.monotonic()
        while self._free and (task := next_in_turn(self._waiting, self._running, self._process_count, now)):
            self._waiting.remove(task)
            self._running.append(task)
            task.began_at = now
            self._free.popitem()[1].set_result(task)
        if not any(process.is_interrupted for process in self._processes):
            giving_way = gives_way(self._waiting, self._running, self._process_count, now)
            for process in self._processes:
                if giving_way is not None and process.task is giving_way:
                    process.interrupt()
        if self._look_again is not None:
            self._look_again.cancel()
        if self._waiting or not all(task.is_long(now) for task in self._running):
            is_trying = any(not task.is_long(now) for task in self._running)
            seconds = FIRST_TURN_SECONDS if is_trying else _CLAIM_SECONDS
            self._look_again = asyncio.get_running_loop().call_later(seconds, self._assign)


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable("Recordings cannot be decoded now; try again shortly.")


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
