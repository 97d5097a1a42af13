"""scribewire's engine: audio in, transcript out.

Offers `Transcriber` and its result types without loading anything heavy until `Transcriber` itself is
asked for, so that `engine.protocol` can be imported by processes that must never load MLX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engine.protocol.transcript import Segment, TokenUsage, Transcript, Word

if TYPE_CHECKING:
    from engine.transcriber import TranscribeItem, Transcriber

__all__ = ["Segment", "TokenUsage", "TranscribeItem", "Transcriber", "Transcript", "Word"]

_LAZY = {"Transcriber": "engine.transcriber", "TranscribeItem": "engine.transcriber"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
