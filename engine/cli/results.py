"""A transcript as the command gives it: text in paragraphs, a JSON document, or subtitles of one kind or another."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from scribewire.engine.processes.console import json_text
from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.languages import join_texts
from scribewire.engine.protocol.transcript import Segment, Transcript
from scribewire.engine.subtitles import RENDERERS, cues_from_transcript
from scribewire.engine.subtitles.scripts import ends_sentence

FORMATS = ("txt", "json", *RENDERERS)
EXTENSIONS = {form: form for form in FORMATS}

PARAGRAPH_PAUSE_SECONDS = 1.0
"""Between two segments. Silence of two seconds parts them, half a second of which they keep."""

LONG_PARAGRAPH_CHARACTERS = 800
"""A paragraph of so many ends with the next segment that ends a sentence, pause or not."""


class Paragraphs:
    """Where paragraphs begin in a text that comes segment by segment."""

    def __init__(self) -> None:
        self._last: Segment | None = None
        self._characters = 0

    def begins_at(self, start_seconds: float) -> bool:
        """True when a segment that starts there begins a paragraph after another one."""
        if self._last is None:
            return False
        pause_seconds = start_seconds - self._last.end_seconds
        is_long = self._characters >= LONG_PARAGRAPH_CHARACTERS
        if pause_seconds < PARAGRAPH_PAUSE_SECONDS and not (is_long and ends_sentence(self._last.text)):
            return False
        self._characters = 0
        return True

    def add(self, segment: Segment) -> None:
        """Take the segment that follows."""
        self._last = segment
        self._characters += len(segment.text)


def result_text(transcript: Transcript, form: str, info: ModelInfo, file: str, *, is_file: bool) -> str:
    """A transcript in one format, ending with a line break unless it is empty.

    file: the recording as messages name it. is_file: a JSON document is laid out to be read, and not on one line.
    """
    if form == "txt":
        return _text(transcript) + "\n"
    if form == "json":
        return json_text(document(transcript, info, file), indent=2 if is_file else None) + "\n"
    return RENDERERS[form](cues_from_transcript(transcript))


def _text(transcript: Transcript) -> str:
    """The text in paragraphs: one for each turn, its speaker before it, where speakers are known."""
    if any(segment.speaker for segment in transcript.segments):
        turns = groupby(transcript.segments, key=lambda segment: segment.speaker)
        return "\n".join(f"{speaker}: {_joined(list(segments))}" for speaker, segments in turns)
    places = Paragraphs()
    paragraphs: list[list[Segment]] = [[]]
    for segment in transcript.segments:
        if places.begins_at(segment.start_seconds):
            paragraphs.append([])
        places.add(segment)
        paragraphs[-1].append(segment)
    return "\n\n".join(map(_joined, paragraphs))


def _joined(segments: list[Segment]) -> str:
    return join_texts([(segment.text, segment.language) for segment in segments])


def document(transcript: Transcript, info: ModelInfo, file: str) -> dict[str, Any]:
    """A transcript as JSON: the API's verbose_json with the file, the model and, where known, speakers.

    `submit` and `jobs show` give the same from the server's answer.
    """
    words = [word for segment in transcript.segments for word in segment.words]
    values: dict[str, Any] = {
        "file": file,
        "model": info.model_id,
        "is_demo": info.is_demo,
        "task": "transcribe",
        "language": (transcript.language or "unknown").lower(),
        "duration": _rounded(transcript.duration_seconds),
        "text": transcript.text,
        "segments": [_segment(segment) for segment in transcript.segments],
        "words": [
            {"word": one.text, "start": _rounded(one.start_seconds), "end": _rounded(one.end_seconds)}
            for one in words
        ],
        "usage": {"type": "duration", "seconds": _rounded(transcript.duration_seconds)},
        "warnings": list(transcript.warnings),
    }
    return {name: value for name, value in values.items() if value or name not in ("words", "warnings")}


def _segment(segment: Segment) -> dict[str, Any]:
    speaker = {} if segment.speaker is None else {"speaker": segment.speaker}
    return {
        "id": segment.index,
        "seek": int(segment.start_seconds * 100),
        "start": _rounded(segment.start_seconds),
        "end": _rounded(segment.end_seconds),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": _rounded(segment.avg_logprob),
        "compression_ratio": _rounded(segment.compression_ratio),
        "no_speech_prob": _rounded(segment.no_speech_prob),
    } | speaker


def _rounded(value: float | None) -> float:
    return round(value, 6) if value is not None and math.isfinite(value) else 0.0
