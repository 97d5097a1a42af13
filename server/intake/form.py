"""Form fields as options: parsed, bounded, and refused with the field's name when they are invalid.

Unknown fields are ignored, as in OpenAI's API; known fields that request something unsupported are refused, because an
answer without it would be wrong.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from scribewire.engine.protocol.config import (
    DEMO_MODEL,
    MAX_VOICE_MILLISECONDS,
    Chunking,
    ModelInfo,
    TranscribeOptions,
)
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.uploads import FormFields
from scribewire.server.webhooks.targets import AllowedTargets, TargetNotAllowed

MODEL_ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")
"""Names that clients have built in; each is an alias of the resident model."""

MAX_LANGUAGE_CHARACTERS = 64
MAX_LANGUAGES = 64
MAX_KEYWORDS = 500
MAX_KEYWORD_CHARACTERS = 200
MAX_SPEAKERS = 16
MAX_SPEAKER_NAME_CHARACTERS = 200

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
_FORMATS: dict[str, ResponseFormat] = {
    "json": "json",
    "text": "text",
    "srt": "srt",
    "verbose_json": "verbose_json",
    "vtt": "vtt",
    "diarized_json": "diarized_json",
}
SUBTITLE_FORMATS: tuple[ResponseFormat, ...] = ("srt", "vtt")
"""Formats with the times of words where an aligner is installed, else with those of segments."""

_USABLE_FORMATS = "use json, text, srt, verbose_json, vtt or diarized_json"

# A data URL holds a comma, at which FormFields splits lists; a new one begins only at `data:`.
_BETWEEN_DATA_URLS = re.compile(r",(?=data:)", re.IGNORECASE)
_AUDIO_DATA_URL = re.compile(r"data:(?:audio|video|application)/[^,]{1,200};base64,[A-Za-z0-9+/_=-]+\Z", re.I)


@dataclass(frozen=True, slots=True)
class TranscriptionForm:
    """Parameters of one request to /v1/audio/transcriptions.

    wants_logprobs: put each token's log-probability into the answer.
    """

    model: str | None
    response_format: ResponseFormat
    options: TranscribeOptions
    stream: bool = False
    wants_logprobs: bool = False


def read_options(
    fields: FormFields,
    *,
    logprobs: bool = False,
    token_logprobs: bool = False,
    words: bool = False,
    words_optional: bool = False,
    speakers: SpeakerOptions | None = None,
) -> TranscribeOptions:
    """Options for the engine; raises ApiError 400."""
    language = _bounded("language", (fields.text("language") or "").strip())
    return TranscribeOptions(
        language=language or None,
        prompt=fields.text("prompt") or None,
        temperature=_number(fields, "temperature", 0.0, 1.0) or 0.0,
        seed=_whole_number(fields, "seed", 0, 2**63 - 1),
        max_tokens=_whole_number(fields, "max_tokens", 1, 65_536),
        logprobs=logprobs or token_logprobs,
        token_logprobs=token_logprobs,
        languages=_languages(fields),
        keywords=_keywords(fields),
        repetition_penalty=_number(fields, "repetition_penalty", 1.0, 2.0) or 1.0,
        words=words or words_optional,
        words_optional=words_optional and not words,
        speakers=speakers,
        chunking=_chunking(fields),
    )


def read_transcription_form(fields: FormFields, *, is_job: bool = False) -> TranscriptionForm:
    """Every supported field of /v1/audio/transcriptions; raises ApiError 400.

    is_job: words may be combined with any format.
    """
    response_format = _response_format(fields)
    words = _wants_words(fields, may_show_words=is_job or response_format == "verbose_json")
    speakers = _speakers(fields)
    wants_logprobs = _wants_logprobs(fields, response_format)
    stream = _boolean(fields, "stream")
    if stream and response_format not in ("json", "text", "diarized_json"):
        raise bad_request(
            "invalid_parameter",
            f"stream=true sends events in place of a {response_format} body; "
            "use response_format=json, or leave stream out.",
            "stream",
        )
    return TranscriptionForm(
        model=fields.text("model") or None,
        response_format=response_format,
        options=read_options(
            fields,
            logprobs=response_format == "verbose_json",
            token_logprobs=wants_logprobs,
            words=words,
            words_optional=response_format in (*SUBTITLE_FORMATS, "diarized_json"),
            speakers=speakers if response_format == "diarized_json" else None,
        ),
        stream=stream,
        wants_logprobs=wants_logprobs,
    )


def read_job_form(fields: FormFields) -> TranscriptionForm:
    """The same for a job, whose result can be fetched in every format later; raises ApiError 400."""
    form = read_transcription_form(fields, is_job=True)
    if form.stream:
        raise bad_request(
            "invalid_parameter",
            "A job cannot be streamed into its answer; follow it at /jobs/JOB_ID/events, and leave stream out.",
            "stream",
        )
    return replace(form, options=replace(form.options, logprobs=True))


def read_callback_url(fields: FormFields, targets: AllowedTargets) -> str | None:
    """Receiver of a job's webhook, None for none; raises ApiError 400."""
    name = "callback_url"
    url = (fields.text(name) or "").strip()
    if not url:
        return None
    try:
        targets.target(url)
    except ValueError as error:
        raise bad_request("callback_invalid", f"{name} {error}.", name) from None
    except TargetNotAllowed:
        raise bad_request(
            "callback_not_allowed",
            f"{name} is not among the targets that this server may call; its operator allows one with "
            "`--allow-callback HOST` or `--allow-callback https://HOST/PATH/`.",
            name,
        ) from None
    return url


def read_result_format(wanted: str) -> ResponseFormat:
    """The format of a job's result; raises ApiError 400 naming `format`."""
    if wanted not in _FORMATS:
        raise bad_request(
            "invalid_parameter", f"format {_shown(wanted)} is unknown; {_USABLE_FORMATS}.", "format"
        )
    return _FORMATS[wanted]


def check_model(wanted: str | None, info: ModelInfo) -> None:
    """Accept the resident model under its id and its aliases, or no name at all; raises ApiError 404."""
    if wanted is None or wanted in names_of(info):
        return
    raise model_not_found(wanted, info)


def names_of(info: ModelInfo) -> tuple[str, ...]:
    """Every name of the resident model, its own first; `demo` is a name of the demo model only."""
    own = (info.model_id, DEMO_MODEL) if info.is_demo else (info.model_id,)
    return tuple(dict.fromkeys((*own, *MODEL_ALIASES)))


def model_not_found(wanted: str, info: ModelInfo) -> ApiError:
    """The 404 that lists the available names."""
    return ApiError(
        404,
        "model_not_found",
        f"The model {_shown(wanted, 100)} is not served here; these are: {', '.join(names_of(info))}.",
        param="model",
    )


def _response_format(fields: FormFields) -> ResponseFormat:
    wanted = (fields.text("response_format") or "json").strip()
    if wanted in _FORMATS:
        return _FORMATS[wanted]
    raise bad_request(
        "invalid_parameter",
        f"response_format {_shown(wanted)} is unknown; {_USABLE_FORMATS}.",
        "response_format",
    )


def _wants_words(fields: FormFields, *, may_show_words: bool) -> bool:
    name = "timestamp_granularities"
    wanted = fields.texts(name)
    for granularity in wanted:
        if granularity not in ("segment", "word"):
            raise bad_request(
                "invalid_parameter", f"{name} {_shown(granularity)} is unknown; use word or segment.", name
            )
    # Some SDKs send `segment` with every format, where it changes nothing; `word` is always intended.
    if "word" in wanted and not may_show_words:
        raise bad_request("invalid_parameter", f"{name} word needs response_format=verbose_json.", name)
    return "word" in wanted


def _wants_logprobs(fields: FormFields, response_format: ResponseFormat) -> bool:
    wanted = fields.texts("include")
    for item in wanted:
        if item != "logprobs":
            raise bad_request(
                "invalid_parameter", f"include {_shown(item)} is unknown; use logprobs.", "include"
            )
    if wanted and response_format != "json":
        raise bad_request("invalid_parameter", "include=logprobs needs response_format=json.", "include")
    return bool(wanted)


def _chunking(fields: FormFields) -> Chunking:
    """The strategy from bracketed fields, or from one JSON text, as the Vercel AI SDK sends it.

    Left out or empty it is this server's own rule; an explicit null is the official one.
    """
    name = "chunking_strategy"
    simple = (fields.text(name) or "").strip()
    bracketed = _strategy_object(fields, name)
    if simple.startswith("{"):
        return _strategy_object(_bracketed(simple, name), name) or Chunking()
    if simple not in ("", "auto", "null", "none"):
        raise bad_request(
            "invalid_parameter",
            f"{name} must be auto, or an object sent as {name}[type]=server_vad and so on, "
            f"not {_shown(simple)}.",
            name,
        )
    if bracketed is not None:
        return bracketed
    if simple == "auto":
        return Chunking("voice")
    return Chunking("quietest") if simple else Chunking()


def _strategy_object(fields: FormFields, name: str) -> Chunking | None:
    """The strategy of the bracketed fields; None when there are none."""
    kind = (fields.text(f"{name}[type]") or "").strip()
    if kind not in ("", "auto", "server_vad"):
        raise bad_request(
            "invalid_parameter", f"{name}[type] must be server_vad, not {_shown(kind)}.", f"{name}[type]"
        )
    padding = _whole_number(fields, f"{name}[prefix_padding_ms]", 0, MAX_VOICE_MILLISECONDS)
    silence = _whole_number(fields, f"{name}[silence_duration_ms]", 0, MAX_VOICE_MILLISECONDS)
    threshold = _number(fields, f"{name}[threshold]", 0.0, 1.0)
    if kind != "server_vad" and any(value is not None for value in (padding, silence, threshold)):
        raise bad_request(
            "invalid_parameter", f"{name} has details that need {name}[type]=server_vad.", f"{name}[type]"
        )
    if not kind:
        return None
    usual = Chunking("voice")
    return Chunking(
        "voice",
        threshold=usual.threshold if threshold is None else threshold,
        prefix_padding_ms=usual.prefix_padding_ms if padding is None else padding,
        silence_duration_ms=usual.silence_duration_ms if silence is None else silence,
    )


def _bracketed(text: str, name: str) -> FormFields:
    """A JSON object as the equivalent bracketed fields."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict) or any(isinstance(value, (dict, list)) for value in content.values()):
        raise bad_request(
            "invalid_parameter", f"{name} is no JSON object of plain values: {_shown(text)}.", name
        )
    return FormFields(
        {
            f"{name}[{key}]": [value if isinstance(value, str) else json.dumps(value)]
            for key, value in content.items()
            if value is not None
        }
    )


def _speakers(fields: FormFields) -> SpeakerOptions:
    """Options of diarized_json; with another format they are still validated, but not used."""
    names = fields.texts("known_speaker_names")
    joined = ",".join(fields.texts("known_speaker_references"))
    references = _BETWEEN_DATA_URLS.split(joined) if joined else []
    for name, values in (("known_speaker_names", names), ("known_speaker_references", references)):
        if len(values) > MAX_SPEAKERS:
            raise bad_request(
                "invalid_parameter", f"{name} has more than {MAX_SPEAKERS} entries: {len(values)}.", name
            )
    if any(len(name) > MAX_SPEAKER_NAME_CHARACTERS for name in names):
        raise bad_request(
            "invalid_parameter",
            f"known_speaker_names holds a name of more than {MAX_SPEAKER_NAME_CHARACTERS} characters.",
            "known_speaker_names",
        )
    if not all(_AUDIO_DATA_URL.match(reference) for reference in references):
        raise bad_request(
            "invalid_parameter",
            "known_speaker_references must be data URLs of recordings (data:audio/wav;base64,...).",
            "known_speaker_references",
        )
    if len(references) > len(names):
        raise bad_request(
            "invalid_parameter",
            f"known_speaker_references has {len(references)} entries for {len(names)} known_speaker_names.",
            "known_speaker_references",
        )
    return SpeakerOptions(known_names=tuple(names), references=tuple(references))


def _languages(fields: FormFields) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(fields.texts("languages")))
    if len(wanted) > MAX_LANGUAGES:
        raise bad_request(
            "invalid_parameter",
            f"languages has more than {MAX_LANGUAGES} entries: {len(wanted)}.",
            "languages",
        )
    return tuple(_bounded("languages", language) for language in wanted)


def _bounded(name: str, language: str) -> str:
    if len(language) > MAX_LANGUAGE_CHARACTERS:
        raise bad_request("language_unknown", f"{name} {_shown(language)} is too long to be one.", name)
    return language


def _keywords(fields: FormFields) -> tuple[str, ...]:
    keywords = tuple(dict.fromkeys(fields.texts("keywords")))
    if len(keywords) > MAX_KEYWORDS:
        raise bad_request(
            "invalid_parameter",
            f"keywords has more than {MAX_KEYWORDS} entries: {len(keywords)}.",
            "keywords",
        )
    for keyword in keywords:
        if len(keyword) > MAX_KEYWORD_CHARACTERS:
            raise bad_request(
                "invalid_parameter",
                f"keywords holds one of more than {MAX_KEYWORD_CHARACTERS} characters: {_shown(keyword)}.",
                "keywords",
            )
    return keywords


def _number(fields: FormFields, name: str, minimum: float, maximum: float) -> float | None:
    text = _given(fields, name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not minimum <= number <= maximum:  # False for NaN too
        raise bad_request(
            "invalid_parameter",
            f"{name} must be a number from {minimum:g} to {maximum:g}, not {_shown(text)}.",
            name,
        )
    return number


def _whole_number(fields: FormFields, name: str, minimum: int, maximum: int) -> int | None:
    text = _given(fields, name)
    if text is None:
        return None
    # JSON has one kind of number: 7.0 is a whole number too.
    text = re.sub(r"\.0+\Z", "", text)
    if not re.fullmatch(r"[0-9]{1,19}", text) or not minimum <= int(text) <= maximum:
        raise bad_request(
            "invalid_parameter",
            f"{name} must be a whole number from {minimum} to {maximum}, not {_shown(text)}.",
            name,
        )
    return int(text)


def _boolean(fields: FormFields, name: str) -> bool:
    text = (_given(fields, name) or "false").lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise bad_request("invalid_parameter", f"{name} must be true or false, not {_shown(text)}.", name)


def _given(fields: FormFields, name: str) -> str | None:
    """A field's text; None when it is absent, empty or a null converted to text."""
    text = (fields.text(name) or "").strip()
    return None if text.lower() in ("", "null", "none") else text


def _shown(text: str, characters: int = 40) -> str:
    """The client's text on one line, shortened."""
    return repr(text[:characters])
