"""Speech to text with a Qwen3-ASR model: recordings in, transcripts and subtitles out.

The names below are the package's public ones, each imported at its first use: the command sets its signal handlers
before it imports anything, and the server's front and the children that read untrusted files never load MLX, which
`Transcriber` needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scribewire.engine.protocol.config import Chunking
    from scribewire.engine.protocol.errors import (
        AlignerMissing,
        AudioEmpty,
        AudioError,
        AudioFormatUnsupported,
        AudioParametersUnsupported,
        AudioTooLong,
        AudioTooShort,
        AudioTrackMissing,
        AudioTruncated,
        AudioUndecodable,
        AudioUnreadable,
        CheckpointMismatch,
        DownloadFailed,
        EngineError,
        EngineFault,
        EngineUnavailable,
        LanguageUnknown,
        LanguageUnsupported,
        ModelError,
        ModelIncomplete,
        ModelNotFound,
        OptionInvalid,
        PromptTooLong,
        RequestCancelled,
    )
    from scribewire.engine.protocol.transcript import Segment, TokenLogprob, TokenUsage, Transcript, Word
    from scribewire.engine.subtitles import (
        Cue,
        cues_from_segments,
        cues_from_transcript,
        render_lrc,
        render_srt,
        render_tsv,
        render_vtt,
    )
    from scribewire.engine.transcriber import Listener, TranscribeItem, Transcriber

__all__ = [
    "AlignerMissing",
    "AudioEmpty",
    "AudioError",
    "AudioFormatUnsupported",
    "AudioParametersUnsupported",
    "AudioTooLong",
    "AudioTooShort",
    "AudioTrackMissing",
    "AudioTruncated",
    "AudioUndecodable",
    "AudioUnreadable",
    "CheckpointMismatch",
    "Chunking",
    "Cue",
    "DownloadFailed",
    "EngineError",
    "EngineFault",
    "EngineUnavailable",
    "LanguageUnknown",
    "LanguageUnsupported",
    "Listener",
    "ModelError",
    "ModelIncomplete",
    "ModelNotFound",
    "OptionInvalid",
    "PromptTooLong",
    "RequestCancelled",
    "Segment",
    "TokenLogprob",
    "TokenUsage",
    "TranscribeItem",
    "Transcriber",
    "Transcript",
    "Word",
    "cues_from_segments",
    "cues_from_transcript",
    "render_lrc",
    "render_srt",
    "render_tsv",
    "render_vtt",
]

_HOMES = ("protocol.errors", "protocol.transcript", "protocol.config", "subtitles", "transcriber")
"""Modules of the engine that define the public names. The last one loads MLX, and is asked last."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"scribewire.engine.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
