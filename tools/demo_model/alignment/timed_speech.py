"""Speech whose word times are known: what a synthesizer says of its own utterance, carried through every later cut.

Words are what the aligner's official rule makes of a text in a spaced language: split at spaces, only letters, digits
and apostrophes kept. A text whose words cannot be found again in what the synthesizer says is refused, never guessed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.demo_model import speech

_PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class TimedWord:
    """Seconds from the first sample. NaN: this border is not known (two words that were spoken as one)."""

    text: str
    start_seconds: float
    end_seconds: float

    def later(self, seconds: float) -> TimedWord:
        return TimedWord(self.text, self.start_seconds + seconds, self.end_seconds + seconds)


@dataclass(frozen=True)
class TimedSpeech:
    """samples: (n,) int16, mono 16 kHz."""

    samples: NDArray[np.int16]
    words: tuple[TimedWord, ...]


def spoken_form(token: str) -> str:
    """Letters, digits and apostrophes of `token`; empty when it is marks only.

    Source: the word cleaning of the official aligner (Unicode categories L and N, and the straight apostrophe).
    """
    return "".join(c for c in token if c == "'" or unicodedata.category(c)[0] in "LN")


class TimedSpeaker:
    """Speaks through one child process, which is started when first needed and again when it has died."""

    def __init__(self, programs: speech.Programs) -> None:
        self._environment = {**programs.environment, "PYTHONPATH": str(_PROJECT)}
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TimedSpeaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None

    def speak(self, text: str, voice: speech.Voice) -> TimedSpeech:
        """Speech of `text` with the times of its words, silence at both ends trimmed to 10 ms.

        raises: speech.SynthesisFailed
        """
        tokens = text.split()
        cleaned = [spoken_form(token) for token in tokens]
        request: dict[str, Any] = {"engine": voice.engine, "voice": voice.name, "speed": voice.speed}
        request["pitch"] = voice.pitch
        if voice.engine == "flite":
            request["text"] = text
        else:
            request["voice"] += f"+{voice.variant}" if voice.variant else ""
            request |= {"tokens": tokens, "is_word": [bool(word) for word in cleaned]}
        reply, samples = self._ask(request)
        wanted = [word for word in cleaned if word]
        if voice.engine == "flite":
            words = match_tokens(wanted, reply["tokens"])
        else:
            words = [
                TimedWord(word, *(math.nan if edge is None else float(edge) for edge in edges))
                for word, edges in zip(wanted, reply["words"], strict=True)
            ]
        rate = int(reply["rate"])
        if rate != speech.SAMPLE_RATE:
            samples = speech.resample(samples, rate)
        return trimmed(samples, words)

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.int16]]:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
            reply: dict[str, Any] = json.loads(line) if line else {"error": "the synthesizer died"}
            body = child.stdout.read(reply.get("bytes", 0))
        except (OSError, ValueError) as problem:
            self.close()
            raise speech.SynthesisFailed(f"the synthesizer died: {problem}") from problem
        if "error" in reply or len(body) != reply["bytes"]:
            if not line:
                self.close()
            raise speech.SynthesisFailed(str(reply.get("error", "the synthesizer died while it spoke")))
        return reply, np.frombuffer(body, dtype="<i2").astype(np.int16)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tools.demo_model.alignment.speaking_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
            )
        return self._child


def match_tokens(words: Sequence[str], tokens: Sequence[tuple[str, float, float]]) -> list[TimedWord]:
    """flite's tokens under the official words: each word takes tokens until their letters are its own.

    tokens: (name, start, end) in seconds, end 0 for what is not spoken
    raises: speech.SynthesisFailed when the letters differ or a word has no sound
    """
    spoken = [(name, start, end) for token, start, end in tokens if (name := spoken_form(token))]
    found = []
    place = 0
    for word in words:
        letters, first, last = "", math.nan, 0.0
        while len(letters) < len(word) and place < len(spoken):
            name, start, end = spoken[place]
            letters += name
            if end > 0:
                first = start if math.isnan(first) else first
                last = end
            place += 1
        if letters != word or last <= first or math.isnan(first):
            raise speech.SynthesisFailed(f"flite's tokens do not spell {word!r}")
        found.append(TimedWord(word, first, last))
    if place != len(spoken):
        raise speech.SynthesisFailed("flite said more than the text")
    return found


def trimmed(samples: NDArray[np.int16], words: Sequence[TimedWord]) -> TimedSpeech:
    """Silence cut from both ends as speech.trim_edges does; times moved, and kept inside the sound."""
    kept, cut = speech.trim_edges_and_tell(samples)
    offset, length = cut / speech.SAMPLE_RATE, len(kept) / speech.SAMPLE_RATE

    def moved(seconds: float) -> float:
        return seconds if math.isnan(seconds) else min(max(seconds - offset, 0.0), length)

    return TimedSpeech(
        kept, tuple(TimedWord(w.text, moved(w.start_seconds), moved(w.end_seconds)) for w in words)
    )


def joined(pieces: Sequence[TimedSpeech], pauses_seconds: Sequence[float]) -> TimedSpeech:
    """Pieces in order with digital silence between them; `pauses_seconds` has one entry fewer than `pieces`."""
    samples: list[NDArray[np.int16]] = []
    words: list[TimedWord] = []
    sample_count = 0
    for piece, pause in zip(pieces, (0.0, *pauses_seconds), strict=True):
        silence = np.zeros(round(pause * speech.SAMPLE_RATE), dtype=np.int16)
        sample_count += len(silence)
        words += [word.later(sample_count / speech.SAMPLE_RATE) for word in piece.words]
        samples += [silence, piece.samples]
        sample_count += len(piece.samples)
    return TimedSpeech(np.concatenate(samples), tuple(words))


def surrounded(sound: TimedSpeech, before_samples: int, after_samples: int) -> TimedSpeech:
    """Digital silence before and after; a negative `before_samples` cuts so many."""
    samples = sound.samples[max(0, -before_samples) :]
    silence = [np.zeros(max(0, count), np.int16) for count in (before_samples, after_samples)]
    seconds = before_samples / speech.SAMPLE_RATE
    words = (word.later(seconds) for word in sound.words)
    kept = (
        TimedWord(w.text, max(w.start_seconds, 0.0), max(w.end_seconds, 0.0)) if seconds < 0 else w
        for w in words
    )
    return TimedSpeech(np.concatenate([silence[0], samples, silence[1]]), tuple(kept))
