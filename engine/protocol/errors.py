"""Every failure the engine can report, one type and one code each.

Errors are raised where the cause is known. `server/http/errors.py` decides the HTTP status of each code once; a test
fails when a code has no status. An error crosses the process boundary as (code, message, parameter) and is built
again by `error_from_code`.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all engine errors: one line saying what is wrong and what to do about it.

    code: stable machine-readable name. parameter: the request field at fault, if one is.
    """

    code = "engine_error"

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter

    def __str__(self) -> str:
        return self.message


# ---- the recording -------------------------------------------------------------------------------------------


class AudioError(EngineError):
    """The recording cannot be used."""

    code = "audio_invalid"


class AudioUndecodable(AudioError):
    """The bytes look like media but no audio could be decoded from them."""

    code = "audio_undecodable"


class AudioEmpty(AudioError):
    """Zero bytes."""

    code = "audio_empty"


class AudioFormatUnsupported(AudioError):
    """Not a recording at all (text, an image, an archive), or a container that is not accepted."""

    code = "audio_format_unsupported"


class AudioTrackMissing(AudioError):
    """A valid media file without an audio track."""

    code = "audio_track_missing"


class AudioTruncated(AudioError):
    """Cut off before the first sample could be decoded."""

    code = "audio_truncated"


class AudioTooShort(AudioError):
    """Fewer samples than one analysis window needs (201 at 16 kHz), or a track of zero length."""

    code = "audio_too_short"


class AudioTooLong(AudioError):
    """Longer than the configured limit."""

    code = "audio_too_long"


class AudioParametersUnsupported(AudioError):
    """A sample rate or a channel count outside the accepted range."""

    code = "audio_parameters_unsupported"


class AudioUnreadable(AudioError):
    """The file does not exist or cannot be opened."""

    code = "audio_unreadable"


# ---- the request ---------------------------------------------------------------------------------------------


class OptionInvalid(EngineError):
    """An option outside its range (temperature NaN, a negative budget)."""

    code = "option_invalid"


class LanguageUnknown(EngineError):
    """A language name or code that is in no table."""

    code = "language_unknown"


class LanguageUnsupported(EngineError):
    """A known language that the loaded model does not speak; the message names those it does."""

    code = "language_unsupported"


class PromptTooLong(EngineError):
    """Prompt and audio together exceed what the model can attend to."""

    code = "prompt_too_long"


# ---- the model -----------------------------------------------------------------------------------------------


class ModelError(EngineError):
    """The model cannot be loaded."""

    code = "model_invalid"


class ModelNotFound(ModelError):
    """Neither a folder nor a cached download, and it may not or cannot be fetched."""

    code = "model_missing"


class ModelIncomplete(ModelError):
    """A folder that lacks files, or whose weights are cut off (a half-finished download)."""

    code = "model_incomplete"


class CheckpointMismatch(ModelError):
    """A tensor is missing, left over, or of another shape; the message names key, found and wanted."""

    code = "checkpoint_mismatch"


class AlignerMissing(ModelError):
    """Word times were requested, and the forced aligner for them is not on this disk."""

    code = "aligner_missing"


class DownloadFailed(ModelError):
    """The hub could not be reached or broke off; a second `pull` resumes."""

    code = "download_failed"


# ---- the speakers --------------------------------------------------------------------------------------------


class SpeakersError(EngineError):
    """The speakers of a recording could not be told apart."""

    code = "speakers_error"


class SpeakersUnavailable(SpeakersError):
    """The extra, its model, a token or accepted terms are missing; the message says what to install or accept."""

    code = "speakers_unavailable"


class SpeakersFailed(SpeakersError):
    """The process that tells speakers apart died, was too slow, or could not do it."""

    code = "speakers_failed"


# ---- the process ---------------------------------------------------------------------------------------------


class RequestCancelled(EngineError):
    """The work was cancelled by its owner."""

    code = "cancelled"


class EngineCrashed(EngineError):
    """The worker died while this work was in flight."""

    code = "engine_crashed"


class EngineUnavailable(EngineError):
    """No worker is ready (starting, draining, or given up on)."""

    code = "engine_unavailable"


class EngineBusy(EngineError):
    """The queue of waiting work is full."""

    code = "engine_busy"


class EngineFault(EngineError):
    """MLX or our own code failed; the worker is replaced."""

    code = "engine_fault"


def _all_types(base: type[EngineError]) -> list[type[EngineError]]:
    return [base] + [kind for sub in base.__subclasses__() for kind in _all_types(sub)]


def error_types() -> dict[str, type[EngineError]]:
    """Every error type by its code."""
    return {kind.code: kind for kind in _all_types(EngineError)}


def error_from_code(code: str, message: str, parameter: str | None = None) -> EngineError:
    """Build the error again on the other side of the pipe; an unknown code becomes the base type."""
    return error_types().get(code, EngineError)(message, parameter=parameter)
