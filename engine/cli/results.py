"""A transcript as the command gives it: text, a JSON document, or subtitles of one kind or another."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from typing import Any

from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.languages import join_texts
from scribewire.engine.protocol.transcript import Transcript
from scribewire.engine.subtitles import RENDERERS, cue_values, cues_from_transcript

FORMATS = ("txt", "json", *RENDERERS)
ALL_FORMATS = "all"
"""Every format at once, each in a file of its own."""


def formats_of(choice: str) -> tuple[str, ...]:
    """The formats of a choice."""
    return FORMATS if choice == ALL_FORMATS else (choice,)


def result_text(transcript: Transcript, form: str, info: ModelInfo, file: str, *, is_file: bool) -> str:
    """A transcript in one format, ending with a line break unless it is empty.

    file: the recording as messages name it. is_file: a JSON document is laid out to be read, and not on one line.
    """
    if form == "txt":
        return _text(transcript) + "\n"
    if form == "json":
        values = document(transcript, info, file)
        return json.dumps(values, ensure_ascii=False, indent=2 if is_file else None) + "\n"
    return RENDERERS[form](cues_from_transcript(transcript))


def _text(transcript: Transcript) -> str:
    """The text; where speakers are known a paragraph for each turn, its speaker before it."""
    if not any(segment.speaker for segment in transcript.segments):
        return transcript.text
    turns = groupby(transcript.segments, key=lambda segment: segment.speaker)
    return "\n".join(
        f"{speaker}: " + join_texts([(segment.text, segment.language) for segment in segments])
        for speaker, segments in turns
    )


def document(transcript: Transcript, info: ModelInfo, file: str) -> dict[str, Any]:
    """A transcript as JSON gives it: the dataclass's own names and units without the token ids, and its cues."""
    content = asdict(transcript)
    for segment in content["segments"]:
        del segment["tokens"]
        if segment["speaker"] is None:
            del segment["speaker"]
    cues = cue_values(cues_from_transcript(transcript))
    return {"file": file, "is_demo": info.is_demo, **content, "cues": cues}
