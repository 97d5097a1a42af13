"""Names under which models are served: a request's name becomes the model that the engine knows."""

from __future__ import annotations

from scribewire.engine.protocol.config import DEMO_MODEL, ModelInfo
from scribewire.server.http.errors import ApiError

MODEL_ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")
"""Names that clients have built in; each is an alias of the resident model."""


def names_of(info: ModelInfo) -> tuple[str, ...]:
    """Every name of the resident model, its own first; `demo` is a name of the demo model only."""
    own = (info.model_id, DEMO_MODEL) if info.is_demo else (info.model_id,)
    return tuple(dict.fromkeys((*own, *MODEL_ALIASES)))


def resolve_model(wanted: str | None, info: ModelInfo) -> str | None:
    """The `model` of a transcription's options: None for the resident model under any of its names, or without one.

    raises: ApiError 404 for another name
    """
    if wanted is None or wanted in names_of(info):
        return None
    raise ApiError(
        404,
        "model_not_found",
        f"The model {wanted[:100]!r} is not served here; these are: {', '.join(names_of(info))}.",
        param="model",
    )
