"""One transcoding child from the front's side: one task at a time, and an end for every task whatever the child does.

Nothing here blocks: lines are read as they come, and a child that is dead, stopped or silent delays no other task. The
child's messages are checked, also against the file it has written; a child that sends an invalid one is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from scribewire.engine.processes.launch import WorkerHandle
from scribewire.engine.protocol.config import MIN_SAMPLES, SAMPLE_RATE_HZ, AudioLimits
from scribewire.engine.protocol.errors import (
    AudioError,
    AudioUndecodable,
    AudioUnreadable,
    EngineError,
    RequestCancelled,
    error_from_code,
)
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
from scribewire.server.engine.client import AudioOutcome
from scribewire.server.http.errors import ApiError, disk_full
from scribewire.server.observability.logs import log_event

START_SECONDS = 60.0
"""A child that is not ready within this time is killed."""

TAKE_SECONDS = 20.0
"""A child that does not start a recording within this time is killed, and another gets the recording."""

STOP_SECONDS = 0.5
"""A child that does not abandon a recording, or exit, within this time after the request is killed."""

SAMPLE_BYTES = 4
_STDERR_BYTES = 4096
_REAP_SECONDS = 0.5

logger = logging.getLogger("scribewire.decoding")


class TranscodeTask:
    """One recording to be transcoded; its futures never end in an exception.

    enough: done when the beginning can be read, or at the end. ended: done at the end.
    failure: then, why the recording is incomplete, if it is. expected_seconds: duration that the file claims.
    lead_seconds: time of transcoding until `enough`. decode_seconds: time of all of it.
    """

    def __init__(
        self, input_path: Path, output_path: Path, limits: AudioLimits, *, begins_after_samples: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self.input_path = input_path
        self.output_path = output_path
        self.limits = limits
        self.begins_after_samples = begins_after_samples
        self.enough: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[AudioOutcome] = loop.create_future()
        self.expected_seconds: float | None = None
        self.lead_seconds = 0.0
        self.decode_seconds = 0.0
        self.warnings: tuple[str, ...] = ()
        self.failure: Exception | None = None
        self.is_taken = False
        self.times_lost = 0
        self.is_abandoned = False

    def begin(self, message: AudioBegun) -> None:
        """Note that the beginning can be read."""
        self.expected_seconds = message.expected_seconds
        if not self.enough.done():
            self.lead_seconds = message.decode_seconds
            self.enough.set_result(None)

    def complete(self, message: Transcoded) -> None:
        """End the task with all samples."""
        self.expected_seconds = message.sample_count / SAMPLE_RATE_HZ
        self.decode_seconds = message.decode_seconds
        if not self.enough.done():
            self.lead_seconds = message.decode_seconds
        self.warnings = message.warnings
        self._end(AudioOutcome(message.sample_count))

    def fail(self, error: Exception) -> None:
        """End the task with an error."""
        self.failure = error
        shown = error if isinstance(error, EngineError) else AudioUnreadable(str(error))
        self._end(AudioOutcome(0, shown))

    def _end(self, outcome: AudioOutcome) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)
        if not self.enough.done():
            self.enough.set_result(None)


class TranscodeProcess:
    """A started child; everything runs on the event loop.

    on_change: called when the child has become free. on_gone: called when its process has ended and is reaped, with the
    task that it was sent and never started, if there is one.
    """

    def __init__(
        self,
        handle: WorkerHandle,
        *,
        on_change: Callable[[TranscodeProcess], None],
        on_gone: Callable[[TranscodeProcess, TranscodeTask | None], None],
    ) -> None:
        self._handle = handle
        self._on_change = on_change
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._last_words = bytearray()
        self._task_id = 0
        self._timeout_seconds = 0.0
        self._timers = [self._loop.call_later(START_SECONDS, self.kill)]
        self._is_leaving = False
        self._is_death_wanted = False
        self.process_id = handle.process.pid
        self.was_ready = False
        self.task: TranscodeTask | None = None
        self.gone = asyncio.Event()
        self._pipe_descriptor = handle.pipe.fileno()
        self._stderr_descriptor = handle.stderr.fileno()
        for descriptor in (self._pipe_descriptor, self._stderr_descriptor):
            os.set_blocking(descriptor, False)
        self._loop.add_reader(self._pipe_descriptor, self._read)
        self._loop.add_reader(self._stderr_descriptor, self._drain)
        self._loop.add_reader(handle.process.sentinel, self._on_exit)

    @property
    def is_free(self) -> bool:
        """True when it can take a task now."""
        return self.was_ready and self.task is None and not self._is_leaving and not self.gone.is_set()

    def begin(self, task: TranscodeTask, *, timeout_seconds: float) -> bool:
        """Send a task to the child, which must be free; False when the child is dead."""
        assert self.is_free
        self._task_id += 1
        is_sent = self._send(
            Transcode(
                self._task_id,
                str(task.input_path),
                str(task.output_path),
                task.begins_after_samples,
                task.limits,
            )
        )
        if is_sent:
            self.task = task
            self._timeout_seconds = timeout_seconds
            self._timers = [self._loop.call_later(TAKE_SECONDS, self._time_out)]
        return is_sent

    def stop(self, task: TranscodeTask) -> None:
        """Stop a task, by a message or else by killing the child; a task that the child does not have is no error."""
        if self.task is task and not task.is_abandoned:
            task.is_abandoned = True
            self._send(StopTranscoding(self._task_id))
            self._timers.append(self._loop.call_later(STOP_SECONDS, self.kill))

    def kill(self) -> None:
        """End the process at once; `on_gone` follows."""
        self._is_leaving = True
        if not self.gone.is_set():
            self._handle.process.kill()

    def dismiss(self, error: EngineError) -> None:
        """End the process because it is not needed any more; its task ends with the error."""
        self._is_death_wanted = True
        if (task := self._release()) is not None:
            task.fail(error)
        self.kill()

    def _release(self) -> TranscodeTask | None:
        """Release the current task, and cancel its timers."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        task, self.task = self.task, None
        return task

    def _send(self, message: ToTranscoder) -> bool:
        line = to_line(message)
        try:
            # The pipe holds a few short lines at most for a child that reads; one that does not is useless.
            is_sent = os.write(self._pipe_descriptor, line) == len(line)
        except OSError:
            is_sent = False
        if not is_sent:
            self.kill()
        return is_sent

    def _time_out(self) -> None:
        log_event(logger, logging.WARNING, "decoding_timed_out", process_id=self.process_id)
        self.kill()

    def _read(self) -> None:
        try:
            while data := os.read(self._pipe_descriptor, MAX_LINE_BYTES):
                self._received += data
                while (end := self._received.find(b"\n")) >= 0:
                    line = bytes(self._received[:end])
                    del self._received[: end + 1]
                    self._on_message(parse_from_transcoder(line))
                if len(self._received) > MAX_LINE_BYTES:
                    raise MessageInvalid("a line has no end")
        except BlockingIOError:
            return
        except MessageInvalid as error:
            log_event(logger, logging.ERROR, "decode_child_talks_nonsense", error=str(error))
            self.kill()
        except OSError:
            pass
        # The end of the pipe: the sentinel reports the child's death.
        self._loop.remove_reader(self._pipe_descriptor)

    def _on_message(self, message: FromTranscoder) -> None:
        task = self.task
        if isinstance(message, TranscoderReady):
            self._release()
            self.was_ready = True
            self._on_change(self)
        elif task is None or message.task_id != self._task_id:
            raise MessageInvalid("an answer to no task")
        elif isinstance(message, TranscodeTaken):
            self._take(task)
        elif isinstance(message, AudioBegun):
            task.begin(message)
        else:
            self._end(task, message)

    def _take(self, task: TranscodeTask) -> None:
        if task.is_taken:
            raise MessageInvalid("a recording is taken once")
        task.is_taken = True
        if not task.is_abandoned:
            self._timers.pop().cancel()
            self._timers = [self._loop.call_later(self._timeout_seconds, self._time_out)]

    def _end(self, task: TranscodeTask, message: Transcoded | TranscodeFailed) -> None:
        self._release()
        if message.is_last:
            self._is_leaving = True
            self._timers = [self._loop.call_later(STOP_SECONDS, self.kill)]
        if task.is_abandoned:
            task.fail(RequestCancelled("the transcoding was stopped"))
        elif isinstance(message, TranscodeFailed):
            task.fail(_error_of(message))
        elif _holds(task.output_path, message.sample_count):
            task.complete(message)
        else:
            # The worker, which maps the file, relies on its length.
            task.fail(_undecodable())
            raise MessageInvalid("the samples are not as many as it says")
        self._on_change(self)

    def _drain(self) -> None:
        try:
            while data := os.read(self._stderr_descriptor, _STDERR_BYTES):
                self._last_words += data
                del self._last_words[:-_STDERR_BYTES]
        except BlockingIOError:
            return
        except OSError:
            pass
        self._loop.remove_reader(self._stderr_descriptor)

    def _on_exit(self) -> None:
        self._is_leaving = True
        # Messages sent before its death still count.
        self._read()
        self._drain()
        for descriptor in (
            self._pipe_descriptor,
            self._stderr_descriptor,
            self._handle.process.sentinel,
        ):
            self._loop.remove_reader(descriptor)
        process = self._handle.process
        process.join(_REAP_SECONDS)  # it is exiting: this takes no time
        exit_code = process.exitcode
        task = self._release()
        if not self._is_death_wanted and (task is not None or not self.was_ready):
            words = self._last_words.decode("utf-8", "replace").strip().splitlines()[-5:]
            log_event(
                logger,
                logging.WARNING if self.was_ready else logging.ERROR,
                "decode_child_died",
                process_id=self.process_id,
                exit_code=exit_code,
                last_words=words,
            )
        self._handle.close()
        if exit_code is not None:
            process.close()
        self.gone.set()
        is_lost = task is not None and not task.is_taken and not task.is_abandoned
        if task is not None and not is_lost:
            task.fail(_undecodable())
        self._on_gone(self, task if is_lost else None)


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
