"""Segments as cues, and cues as files: SubRip, WebVTT, tab-separated values, LRC."""

from __future__ import annotations

from scribewire.engine.subtitles.cues import Cue, cues_from_segments, cues_from_transcript
from scribewire.engine.subtitles.formats import (
    RENDERERS,
    render_lrc,
    render_srt,
    render_tsv,
    render_vtt,
)

__all__ = [
    "RENDERERS",
    "Cue",
    "cues_from_segments",
    "cues_from_transcript",
    "render_lrc",
    "render_srt",
    "render_tsv",
    "render_vtt",
]
