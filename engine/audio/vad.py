"""The voice detector, in a process of its own (`scribewire.engine.audio.vad_child`), one for all recordings.

It is started when it is first needed; `scribewire.engine.audio.labels` decides what its probabilities mean.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading

import numpy as np

from scribewire.engine.audio.pcm import Samples
from scribewire.engine.audio.voice_frames import HEADER
from scribewire.engine.processes.child import ChildProcess, raw_socket
from scribewire.engine.processes.launch import VOICE_DETECTOR_MODULE, start_voice_detector
from scribewire.engine.protocol.errors import EngineUnavailable

ANSWER_SECONDS = 20.0
"""A detector that does not answer within this time is killed; the most frames that it gets at once take one second."""

_MOST_FRAMES_AT_ONCE = 1024
_LEAVE_SECONDS = 2.0

logger = logging.getLogger("scribewire.engine")


class SileroDetector:
    """Silero VAD in the shared process; of one recording. raises: EngineUnavailable when that process fails"""

    def __init__(self, process: DetectorProcess | None = None) -> None:
        self._process = process or _shared
        self._stream: tuple[ChildProcess, int] | None = None

    def probabilities(self, frames: Samples) -> list[float]:
        """See Detector."""
        if self._stream is None:
            self._stream = self._process.open()
        found: list[float] = []
        for start in range(0, len(frames), _MOST_FRAMES_AT_ONCE):
            found += self._process.ask(self._stream, frames[start : start + _MOST_FRAMES_AT_ONCE])
        return found

    def close(self) -> None:
        """See Detector."""
        if self._stream is not None:
            self._process.end(self._stream)
            self._stream = None


class DetectorProcess:
    """The process that all recordings share, started when first needed and again when it has died."""

    def __init__(
        self, *, answer_seconds: float = ANSWER_SECONDS, module: str = VOICE_DETECTOR_MODULE
    ) -> None:
        """module: what the process runs."""
        self.answer_seconds = answer_seconds
        self._module = module
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._numbers = itertools.count()

    def open(self) -> tuple[ChildProcess, int]:
        """A place for one recording: it stays with the process that received its beginning."""
        with self._lock:
            if self._child is None or not self._child.is_alive:
                child = self._child = start_voice_detector(module=self._module)
                child.ended.add_done_callback(lambda _: self._note_end(child))
            return self._child, next(self._numbers) & 0xFFFFFFFF

    def ask(self, stream: tuple[ChildProcess, int], frames: Samples) -> list[float]:
        """Probabilities of (n, 512) frames."""
        child, number = stream
        head = HEADER.pack(number, len(frames))
        data = np.ascontiguousarray(frames, dtype="<f4").tobytes()
        with self._lock:
            answer = self._exchange(child, head + data, len(head) + 4 * len(frames))
            found = np.frombuffer(answer[len(head) :], dtype="<f4")
            if not answer.startswith(head) or not np.all((found >= 0.0) & (found <= 1.0)):
                # Dead, silent or out of step: no later answer of this process would be right.
                child.close()
                raise EngineUnavailable(
                    f"the voice detector's process has ended ({child.exit_in_words()}); ask again, or leave "
                    "detection out"
                )
        return [float(one) for one in found]

    def end(self, stream: tuple[ChildProcess, int]) -> None:
        """End this recording."""
        child, number = stream
        with self._lock, contextlib.suppress(OSError), raw_socket(child.pipe, self.answer_seconds) as pipe:
            pipe.sendall(HEADER.pack(number, 0))

    def close(self) -> None:
        """End the process, when there is one."""
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                child.pipe.close()
                child.stop(word_seconds=_LEAVE_SECONDS)

    def _exchange(self, child: ChildProcess, request: bytes, size: int) -> bytes:
        """The answer to a request, as much as came of it in time."""
        answer = bytearray()
        with contextlib.suppress(OSError), raw_socket(child.pipe, self.answer_seconds) as pipe:
            pipe.sendall(request)
            while len(answer) < size and (data := pipe.recv(size - len(answer))):
                answer += data
        if len(answer) < size:
            child.wait(_LEAVE_SECONDS)  # one that is dying already keeps its own exit code
        return bytes(answer) if len(answer) == size else b""

    def _note_end(self, child: ChildProcess) -> None:
        if child.exit_code != 0:
            words = " | ".join(child.last_lines())
            logger.warning("the voice detector's process has ended: %s; %s", child.exit_in_words(), words)


_shared = DetectorProcess()
