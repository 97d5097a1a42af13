"""One upload on its way to samples, and the transcoding child that has it.

A child has one task at a time, and every task has an end, whatever the child does. Nothing here blocks: a child that is
dead, stopped or silent delays no other task. The child's messages are checked, also against the file it has written; a
child that sends an invalid one is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scribewire.engine.processes.child import KILL_SECONDS, ChildProcess, raw_socket
from scribewire.engine.protocol.config import MIN_SAMPLES, SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import (
    AudioError,
    AudioUndecodable,
    AudioUnreadable,
    EngineError,
    RequestCancelled,
    error_from_code,
)
from scribewire.engine.protocol.messages import AudioSource
from scribewire.engine.protocol.transcoding import (
    DISK_FULL_CODE,
    MAX_LINE_BYTES,
    AudioBegun,
    FromTranscoder,
    MessageInvalid,
    StopTranscoding,
    ToTranscoder,
    Transcode,
    Transcoded,
    TranscodeFailed,
    TranscoderReady,
    TranscodeTaken,
    parse_from_transcoder,
    to_line,
)
from scribewire.server.engine.requests import AudioOutcome
from scribewire.server.http.errors import ApiError, disk_full
from scribewire.server.observability.logs import log_event
from scribewire.server.transcode.turns import Contender

START_SECONDS = 60.0
"""A child that is not ready within this time is killed."""

TAKE_SECONDS = 20.0
"""A child that does not start a recording within this time is killed, and another gets the recording."""

STOP_SECONDS = 0.5
"""A child that does not abandon a recording, or exit, within this time after the request is killed."""

INTERRUPT_SECONDS = 1.0
"""A child that does not leave a recording whose turn is over within this time is killed, and so costs it nothing."""

SAMPLE_BYTES = 4

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


class TranscodeTask(Contender):
    """One recording to be transcoded; its futures never end in an exception.

    enough: done when the beginning can be read, or at the end. ended: done at the end.
    is_taken: a child has opened it, and may have died of it. times_lost: children that died before they did.
    """

    def __init__(
        self,
        input_path: Path,
        output_path: Path,
        limits: AudioLimits,
        *,
        begins_after_samples: int,
        is_interactive: bool,
        owner: str,
    ) -> None:
        super().__init__(owner, is_interactive)
        loop = asyncio.get_running_loop()
        self.input_path = input_path
        self.output_path = output_path
        self.limits = limits
        self.begins_after_samples = begins_after_samples
        self.enough: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[AudioOutcome] = loop.create_future()
        self.recording = TranscodedRecording(AudioSource(str(output_path), kind="pcm_float32"))
        self.is_taken = False
        self.times_lost = 0
        self.is_abandoned = False

    def begin(self, message: AudioBegun) -> None:
        """Note that the beginning can be read."""
        self.has_begun = True
        self._note(message.expected_seconds, message.decode_seconds)

    def complete(self, message: Transcoded) -> None:
        """End the task with all samples."""
        if not self.ended.done():
            self.recording.decode_seconds = message.decode_seconds
            self.recording.warnings = message.warnings
            self.ended.set_result(AudioOutcome(message.sample_count))
            self._note(message.sample_count / SAMPLE_RATE_HZ, message.decode_seconds)

    def fail(self, error: Exception) -> None:
        """End the task with an error; one that has ended already stays as it is."""
        if not self.ended.done():
            self.recording.failure = error
            shown = error if isinstance(error, EngineError) else AudioUnreadable(str(error))
            self.ended.set_result(AudioOutcome(0, shown))
            self._note(None, 0.0)

    def _note(self, expected_seconds: float | None, decode_seconds: float) -> None:
        """Let the engine begin, with all of it or while it grows."""
        if self.enough.done():
            return
        is_growing = not self.ended.done()
        recording = self.recording
        recording.source = AudioSource(
            str(self.output_path),
            kind="pcm_float32",
            is_growing=is_growing,
            expected_seconds=expected_seconds,
        )
        recording.ended = self.ended if is_growing else None
        recording.lead_seconds = decode_seconds
        self.enough.set_result(None)


class TranscodeProcess:
    """A started child; everything runs on the event loop.

    gone: done when the process has ended. was_ready: it has taken tasks, or could have. is_leaving: it takes no further
    one. task: the one that it has. is_interrupted: its turn is being ended.
    """

    def __init__(self, child: ChildProcess) -> None:
        self.child = child
        self.gone = asyncio.wrap_future(child.ended)
        self.was_ready = False
        self.is_leaving = False
        self.task: TranscodeTask | None = None
        self.is_interrupted = False
        self._task_id = 0
        self._writer: asyncio.StreamWriter | None = None

    async def wait_ready(self) -> bool:
        """Wait until it takes tasks; False when it will not."""
        with contextlib.suppress(OSError):
            self._reader, self._writer = await asyncio.open_unix_connection(
                sock=raw_socket(self.child.pipe), limit=MAX_LINE_BYTES
            )
            self.was_ready = await self._next(START_SECONDS, TranscoderReady) is not None
        return self.was_ready

    async def transcode(self, task: TranscodeTask, *, timeout_seconds: float) -> bool:
        """Have the child do a task, and give it its end; False when it is to be done by another child, or later.

        So it is when the child died before it had opened the recording, or was interrupted.
        timeout_seconds: from the recording's opening.
        """
        self.task = task
        task.is_taken = False
        self._task_id += 1
        self._send(
            Transcode(
                self._task_id,
                str(task.input_path),
                str(task.output_path),
                task.begins_after_samples,
                task.limits,
            )
        )
        end = await self._end_of(task, timeout_seconds)
        was_interrupted, self.is_interrupted, self.task = self.is_interrupted, False, None
        self.is_leaving = end is None or end.is_last
        if task.is_abandoned:
            task.fail(RequestCancelled("the transcoding was stopped"))
        elif end is None and not task.is_taken:
            task.times_lost += 1
            return False
        elif was_interrupted and (
            end is None or (isinstance(end, TranscodeFailed) and end.code == RequestCancelled.code)
        ):
            task.had_seconds = max(task.had_seconds, task.elapsed_seconds(time.monotonic()))
            return False
        elif isinstance(end, TranscodeFailed):
            task.fail(_error_of(end))
        elif end is not None and _holds(task.output_path, end.sample_count):
            task.complete(end)
        else:
            # The worker, which maps the file, relies on its length.
            self.is_leaving = True
            task.fail(_undecodable())
        return True

    def stop(self, task: TranscodeTask) -> None:
        """Stop a task, by a message or else by killing the child; a task that the child does not have is no error."""
        if self.task is task and not task.is_abandoned:
            task.is_abandoned = True
            self._leave_task(STOP_SECONDS)

    def interrupt(self) -> None:
        """End the turn of its task, by a message or else by killing the child; `transcode` then returns False."""
        self.is_interrupted = True
        self._leave_task(INTERRUPT_SECONDS)

    async def end(self, *, is_wanted: bool) -> None:
        """Wait for the process to end, or make it; one that dies and should not is logged."""
        await asyncio.wait({self.gone}, timeout=STOP_SECONDS)
        self.child.kill()
        await asyncio.wait({self.gone}, timeout=KILL_SECONDS)
        if self._writer is not None:
            self._writer.close()
        self.child.pipe.close()
        if self.child.exit_code != 0 and not is_wanted:
            log_event(
                logger,
                logging.WARNING if self.was_ready else logging.ERROR,
                "decode_child_died",
                process_id=self.child.process_id,
                exit_code=self.child.exit_code,
                reason=self.child.exit_in_words(),
                last_words=self.child.last_lines(),
            )

    async def _end_of(
        self, task: TranscodeTask, timeout_seconds: float
    ) -> Transcoded | TranscodeFailed | None:
        if await self._next(TAKE_SECONDS, TranscodeTaken) is None:
            return None
        task.is_taken = True
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            seconds = deadline - asyncio.get_running_loop().time()
            message = await self._next(seconds, AudioBegun, Transcoded, TranscodeFailed)
            if isinstance(message, AudioBegun):
                task.begin(message)
            else:
                return message if isinstance(message, Transcoded | TranscodeFailed) else None

    async def _next(self, seconds: float, *kinds: type[FromTranscoder]) -> FromTranscoder | None:
        """The next message; None when the child is dead, says nothing in time, or says what it may not."""
        try:
            async with asyncio.timeout(seconds):
                line = await self._reader.readline()
            if not line.endswith(b"\n"):
                return None
            message = parse_from_transcoder(line)
            if not isinstance(message, kinds) or getattr(message, "task_id", self._task_id) != self._task_id:
                raise MessageInvalid(f"a {type(message).__name__} out of turn")
            return message
        except TimeoutError:
            log_event(logger, logging.WARNING, "decoding_timed_out", process_id=self.child.process_id)
            self.child.kill()
        except ValueError as error:  # also of a line without an end
            log_event(logger, logging.ERROR, "decode_child_talks_nonsense", error=str(error))
            self.child.kill()
        except OSError:
            pass  # dead
        return None

    def _leave_task(self, seconds: float) -> None:
        self._send(StopTranscoding(self._task_id))
        asyncio.get_running_loop().call_later(seconds, self._kill_if_at, self._task_id)

    def _kill_if_at(self, task_id: int) -> None:
        if self.task is not None and self._task_id == task_id:
            self.child.kill()

    def _send(self, message: ToTranscoder) -> None:
        assert self._writer is not None
        self._writer.write(to_line(message))


def no_room_for_samples() -> ApiError:
    """The error for a full disk, the same as an upload's."""
    log_event(logger, logging.ERROR, "disk_full")
    return disk_full()


def _error_of(message: TranscodeFailed) -> Exception:
    if message.code == DISK_FULL_CODE:
        return no_room_for_samples()
    if message.detail:
        log_event(logger, logging.ERROR, "decoding_failed_unexpectedly", detail=message.detail)
    error = error_from_code(message.code, message.message, message.parameter)
    # A child may only report errors of the recording.
    return error if isinstance(error, AudioError) else _undecodable()


def _undecodable() -> AudioUndecodable:
    return AudioUndecodable(
        "the recording could not be decoded within the limits of time and memory: convert it to wav or flac"
    )


def _holds(path: Path, sample_count: int) -> bool:
    if sample_count < MIN_SAMPLES:
        return False
    with contextlib.suppress(OSError):
        return path.stat().st_size == sample_count * SAMPLE_BYTES
    return False
