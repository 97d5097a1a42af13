"""A speaker child as its parent holds it: started, given one recording at a time, watched, and ended.

Everything here blocks and belongs into a thread, but for `stop` and `kill`, which may be called from anywhere. A
child that dies, says nothing for too long or takes longer than it may ends in SpeakersFailed, never in silence.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from scribewire.engine.processes.launch import SPEAKER_CHILD_MODULE, start_speaker_child
from scribewire.engine.protocol.errors import RequestCancelled, SpeakersFailed, SpeakersUnavailable
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
)

START_SECONDS = 1800.0
"""A pipeline may have to be downloaded first."""

STOP_SECONDS = 5.0
"""A child that is to leave a recording and does not within this time is killed."""

_LAST_WORDS_BYTES = 4096
_LAST_WORDS_SECONDS = 1.0
_POLL_SECONDS = 0.5


class SpeakerProcess:
    """One child. Use from one thread at a time."""

    def __init__(self, config: DiarizationConfig, *, module: str = SPEAKER_CHILD_MODULE) -> None:
        """Start the child; raises OSError. `wait_ready` waits until it accepts recordings."""
        self._handle = start_speaker_child(config, module=module)
        self._last_words = bytearray()
        self._killed = False
        self._send_lock = threading.Lock()
        self._stop_by: float | None = None
        self._task_id = 0
        self.process_id = self._handle.process.pid
        self.device = ""
        self._draining = threading.Thread(target=self._drain, name="speaker-stderr", daemon=True)
        self._draining.start()

    def wait_ready(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until the pipeline is loaded; raises SpeakersUnavailable, SpeakersFailed."""
        message = self._receive(time.monotonic() + timeout_seconds)
        if isinstance(message, DiarizerUnavailable):
            raise SpeakersUnavailable(message.message)
        if not isinstance(message, DiarizerReady):
            raise SpeakersFailed("the process that tells speakers apart sent an unexpected message")
        self.device = message.device

    def diarize(
        self,
        task: Diarize,
        *,
        timeout_seconds: float,
        on_progress: Callable[[DiarizeProgress], None] | None = None,
    ) -> Diarized:
        """Diarize one recording and wait for it; task_id is set here.

        raises: SpeakersFailed (the child died, was too slow, or could not do it), RequestCancelled (it was stopped)
        """
        deadline = time.monotonic() + timeout_seconds
        with self._send_lock:
            self._task_id += 1
            task_id = self._task_id
            self._send(_numbered(task, task_id))
            if self._stop_by is not None:  # stopped before it was begun
                self._handle.pipe.send(StopDiarizing(task_id))
        try:
            return self._end_of(task_id, deadline, on_progress)
        finally:
            with self._send_lock:
                self._stop_by = None

    def _end_of(
        self, task_id: int, deadline: float, on_progress: Callable[[DiarizeProgress], None] | None
    ) -> Diarized:
        while True:
            message = self._receive(deadline)
            if isinstance(message, DiarizeProgress):
                if on_progress is not None and self._stop_by is None:
                    on_progress(message)
            elif isinstance(message, Diarized) and message.task_id == task_id:
                if self._stop_by is not None:
                    raise RequestCancelled("telling the speakers apart was stopped")
                return message
            elif isinstance(message, DiarizeFailed) and message.task_id == task_id:
                if self._stop_by is not None:
                    raise RequestCancelled("telling the speakers apart was stopped")
                raise SpeakersFailed(message.message)
            else:
                self.kill()
                raise SpeakersFailed("the process that tells speakers apart sent an unexpected message")

    def stop(self) -> None:
        """Stop the recording in flight soon, by a message or else by the child's death; `diarize` then ends."""
        with self._send_lock:
            if self._stop_by is None:
                self._stop_by = time.monotonic() + STOP_SECONDS
                with contextlib.suppress(OSError, ValueError):
                    self._handle.pipe.send(StopDiarizing(self._task_id))

    def kill(self) -> None:
        """End the child at once; idempotent."""
        self._killed = True
        with contextlib.suppress(ValueError):
            self._handle.process.kill()

    @property
    def is_alive(self) -> bool:
        """True while it accepts recordings."""
        with contextlib.suppress(ValueError):
            return not self._killed and self._handle.process.is_alive()
        return False

    def last_words(self) -> list[str]:
        """The last lines that it wrote to its standard error; of a dead child, all of them are waited for."""
        if not self.is_alive:
            self._draining.join(_LAST_WORDS_SECONDS)
        return bytes(self._last_words).decode("utf-8", "replace").strip().splitlines()[-5:]

    def close(self) -> None:
        """End the child, reap it, and close the pipes."""
        self.kill()
        with contextlib.suppress(ValueError):
            self._handle.process.join()
        self._draining.join(_LAST_WORDS_SECONDS)
        self._handle.close()

    def _send(self, message: Diarize) -> None:
        try:
            self._handle.pipe.send(message)
        except (OSError, ValueError):
            raise SpeakersFailed("the process that tells speakers apart is gone") from None

    def _receive(self, deadline: float) -> FromDiarizer:
        pipe = self._handle.pipe
        while True:
            now = time.monotonic()
            if now > deadline:
                self.kill()
                raise SpeakersFailed("telling the speakers apart took longer than it may")
            if self._stop_by is not None and now > self._stop_by:
                self.kill()
                raise RequestCancelled("telling the speakers apart was stopped")
            try:
                if pipe.poll(_POLL_SECONDS):
                    message: FromDiarizer = pipe.recv()
                    return message
            except (EOFError, OSError):
                self.kill()
                if self._stop_by is not None:
                    raise RequestCancelled("telling the speakers apart was stopped") from None
                raise SpeakersFailed("the process that tells speakers apart died") from None

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            descriptor = self._handle.stderr.fileno()
            while data := os.read(descriptor, _LAST_WORDS_BYTES):
                self._last_words += data
                del self._last_words[:-_LAST_WORDS_BYTES]


def _numbered(task: Diarize, task_id: int) -> Diarize:
    return Diarize(
        task_id,
        task.samples_path,
        task.num_speakers,
        task.min_speakers,
        task.max_speakers,
        task.references,
    )
