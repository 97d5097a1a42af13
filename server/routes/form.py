"""Form fields as options: parsed, bounded, and refused with the field's name when they make no sense.

Fields that nobody here knows are ignored, as OpenAI's API does; fields that ask for something not built yet are
refused, because an answer without it would be wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from engine.protocol.config import DEMO_MODEL, ModelInfo, TranscribeOptions
from server.errors import ApiError, bad_request
from server.uploads import FormFields

MODEL_ALIASES = ("whisper-1", "gpt-4o-transcribe")
MAX_LANGUAGE_CHARACTERS = 64

ResponseFormat = Literal["json", "text", "verbose_json"]
_FORMATS: dict[str, ResponseFormat] = {"json": "json", "text": "text", "verbose_json": "verbose_json"}
_FORMATS_TO_COME = ("srt", "vtt", "diarized_json")


@dataclass(frozen=True, slots=True)
class TranscriptionForm:
    """What one call of /v1/audio/transcriptions asks for."""

    model: str | None
    response_format: ResponseFormat
    options: TranscribeOptions


def read_options(fields: FormFields, *, logprobs: bool = False) -> TranscribeOptions:
    """Language, prompt and temperature; raises ApiError 400."""
    language = (fields.text("language") or "").strip()
    if len(language) > MAX_LANGUAGE_CHARACTERS:
        raise bad_request("language_unknown", "language is too long to be one.", "language")
    return TranscribeOptions(
        language=language or None,
        prompt=fields.text("prompt") or None,
        temperature=_temperature(fields),
        logprobs=logprobs,
    )


def read_transcription_form(fields: FormFields) -> TranscriptionForm:
    """Every field of /v1/audio/transcriptions that means something here; raises ApiError 400."""
    response_format = _response_format(fields)
    _check_granularities(fields, response_format)
    if _boolean(fields, "stream"):
        raise bad_request(
            "unsupported_parameter", "stream=true is not supported yet; leave stream out.", "stream"
        )
    if wanted := fields.texts("include"):
        raise bad_request(
            "unsupported_parameter",
            f"include={wanted[0][:40]} is not supported yet; leave include out.",
            "include",
        )
    return TranscriptionForm(
        model=fields.text("model") or None,
        response_format=response_format,
        options=read_options(fields, logprobs=response_format == "verbose_json"),
    )


def check_model(wanted: str | None, info: ModelInfo) -> None:
    """Accept the resident model under its id and its aliases, or no name at all; raises ApiError 404."""
    if wanted is None or is_name_of(wanted, info):
        return
    raise model_not_found(wanted, info)


def is_name_of(wanted: str, info: ModelInfo) -> bool:
    """Whether the resident model answers to this name; `demo` is a name of the demo model only."""
    return wanted in (info.model_id, *MODEL_ALIASES) or (info.is_demo and wanted == DEMO_MODEL)


def model_not_found(wanted: str, info: ModelInfo) -> ApiError:
    """The 404 that names what is there."""
    names = ", ".join(dict.fromkeys((info.model_id, *MODEL_ALIASES)))
    return ApiError(
        404,
        "model_not_found",
        f"The model {wanted[:100]!r} is not served here; these are: {names}.",
        param="model",
    )


def _response_format(fields: FormFields) -> ResponseFormat:
    wanted = (fields.text("response_format") or "json").strip()
    if wanted in _FORMATS:
        return _FORMATS[wanted]
    usable = "use json, text or verbose_json"
    if wanted in _FORMATS_TO_COME:
        raise bad_request(
            "unsupported_parameter",
            f"response_format {wanted} is not supported yet; {usable}.",
            "response_format",
        )
    raise bad_request(
        "invalid_parameter", f"response_format {wanted[:40]!r} is unknown; {usable}.", "response_format"
    )


def _check_granularities(fields: FormFields, response_format: ResponseFormat) -> None:
    name = "timestamp_granularities"
    wanted = fields.texts(name)
    for granularity in wanted:
        if granularity == "word":
            raise bad_request(
                "unsupported_parameter", "Word timestamps are not supported yet; ask for segment.", name
            )
        if granularity != "segment":
            raise bad_request(
                "invalid_parameter", f"{name} {granularity[:40]!r} is unknown; use segment.", name
            )
    if wanted and response_format != "verbose_json":
        raise bad_request("invalid_parameter", f"{name} needs response_format=verbose_json.", name)


def _temperature(fields: FormFields) -> float:
    text = (fields.text("temperature") or "0").strip()
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0.0 <= temperature <= 1.0:  # false for NaN too
        raise bad_request(
            "invalid_parameter",
            f"temperature must be a number from 0 to 1, not {text[:40]!r}.",
            "temperature",
        )
    return temperature


def _boolean(fields: FormFields, name: str) -> bool:
    text = (fields.text(name) or "false").strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0", "null", "none"):
        return False
    raise bad_request("invalid_parameter", f"{name} must be true or false, not {text[:40]!r}.", name)
