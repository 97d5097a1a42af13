"""Speech to text with a Qwen3-ASR model: recordings in, transcripts and subtitles out.

The names below are the package's public ones. `Transcriber` loads MLX, and is therefore imported at its first
use: the server's front and the children that read untrusted files import this package and never MLX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from scribewire.engine.transcriber import TranscribeItem, Transcriber

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

_LOADS_MLX = {
    "Transcriber": "scribewire.engine.transcriber",
    "TranscribeItem": "scribewire.engine.transcriber",
}


def __getattr__(name: str) -> Any:
    if name in _LOADS_MLX:
        return getattr(importlib.import_module(_LOADS_MLX[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
