"""Voice detection: which frames of a recording are speech, and chunks cut where none is.

The detector itself runs in a process of its own (`scribewire.engine.audio.vad_child`), one for all recordings, started
when it is first needed; what is here decides what its probabilities mean. Nothing is left out that came before or
after speech by less than the padding, and no speech is too short to count.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from scribewire.engine.audio.pauses import Flags, Levels, PauseSplitter
from scribewire.engine.audio.split import Samples
from scribewire.engine.audio.voice_frames import FRAME_SAMPLES, HEADER
from scribewire.engine.processes.child import ChildProcess, raw_socket
from scribewire.engine.processes.launch import VOICE_DETECTOR_MODULE, start_voice_detector
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, Chunking
from scribewire.engine.protocol.errors import EngineUnavailable

HYSTERESIS = 0.15
"""Speech that has begun goes on while its probability is no further below the threshold. Source: Silero's own rule."""

ANSWER_SECONDS = 20.0
"""A detector that does not answer within this time is killed; the most frames that it gets at once take one second."""

_MOST_FRAMES_AT_ONCE = 1024
_LEAVE_SECONDS = 2.0

logger = logging.getLogger("scribewire.engine")


class Detector(Protocol):
    """Listens to one recording from its start."""

    def probabilities(self, frames: Samples) -> list[float]:
        """Probability of speech for each of (n, 512) float32 frames, which follow those before."""

    def close(self) -> None:
        """End the recording."""


class VoiceLabels:
    """Silence outside speech: speech begins at the threshold, and ends with enough frames well below it."""

    frame_samples = FRAME_SAMPLES
    finds_pauses = True

    def __init__(self, detector: Detector, chunking: Chunking) -> None:
        self._detector = detector
        self._threshold = chunking.threshold
        self._stays_above = max(0.0, chunking.threshold - HYSTERESIS)
        frame_ms = 1000 * FRAME_SAMPLES / SAMPLE_RATE_HZ
        self._ends_after = max(1, round(chunking.silence_duration_ms / frame_ms))
        self._is_speech = False
        self._doubtful = 0

    def push(self, frames: Samples, levels: Levels) -> Flags:
        """See scribewire.engine.audio.pauses.Labels; speech that may be ending waits for what follows."""
        return self.label(self._detector.probabilities(frames))

    def finish(self) -> Flags:
        """The flags of all frames that had none yet: speech that was ending has ended."""
        doubtful, self._doubtful = self._doubtful, 0
        return np.ones(doubtful, dtype=np.bool_)

    def label(self, probabilities: Iterable[float]) -> Flags:
        """The flags that are certain after these."""
        flags: list[bool] = []
        for probability in probabilities:
            if probability >= self._threshold:
                flags += [False] * (self._doubtful + 1)
                self._is_speech, self._doubtful = True, 0
            elif not self._is_speech:
                flags.append(True)
            elif self._doubtful or probability < self._stays_above:
                self._doubtful += 1
                if self._doubtful >= self._ends_after:
                    flags += [True] * self._doubtful
                    self._is_speech, self._doubtful = False, 0
            else:
                flags.append(False)
        return np.array(flags, dtype=np.bool_)


def voice_splitter(
    detector: Detector, chunking: Chunking, *, max_chunk_seconds: float = 30.0, min_chunk_seconds: float = 0.0
) -> PauseSplitter:
    """A splitter whose pauses are where this detector hears no voice; raises ValueError as PauseSplitter does."""
    return PauseSplitter(
        VoiceLabels(detector, chunking),
        max_chunk_seconds=max_chunk_seconds,
        min_chunk_seconds=min_chunk_seconds,
        lead_seconds=chunking.prefix_padding_ms / 1000,
    )


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
