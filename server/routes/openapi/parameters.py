"""Parameters of a transcription, as the properties of its form and of its JSON body.

Both have the same parameters: a list is sent as `name[]` in a form and as an array in JSON, an object as bracketed
fields in a form. The resident model's names and languages are listed once it is loaded.
"""

from __future__ import annotations

from typing import get_args

from scribewire.engine.protocol.config import MAX_VOICE_MILLISECONDS, ModelInfo
from scribewire.server.intake.form import (
    MAX_KEYWORD_CHARACTERS,
    MAX_KEYWORDS,
    MAX_LANGUAGE_CHARACTERS,
    MAX_LANGUAGES,
    MAX_SPEAKER_NAME_CHARACTERS,
    MAX_SPEAKERS,
    ResponseFormat,
    names_of,
)
from scribewire.server.intake.form_fields import MAX_FIELD_BYTES, MAX_FIELDS
from scribewire.server.routes.openapi.schemas import Schema, or_null
from scribewire.server.speakers.diarization import MAX_REFERENCE_SECONDS
from scribewire.server.webhooks.targets import MAX_URL_CHARACTERS

RECORDING_TYPES = (
    "audio/wav, audio/mpeg, audio/mp4, audio/aac, audio/flac, audio/ogg, audio/aiff, video/mp4, video/webm, "
    "application/octet-stream"
)
_UNSET = (None, "", "null", "none")
"""Values that clients send for an unset parameter; each is as if left out."""


def _number_or_unset(kind: str, minimum: int, maximum: int) -> Schema:
    return {
        "type": [kind, "string", "null"],
        "minimum": minimum,
        "maximum": maximum,
        "pattern": "^(null|none)?$",
    }


_MILLISECONDS = _number_or_unset("integer", 0, MAX_VOICE_MILLISECONDS)
_NOT_STREAMED = (False, 0, "false", "0", *_UNSET)
_SHARE = _number_or_unset("number", 0, 1)
_VAD_DETAILS: dict[str, Schema] = {
    "prefix_padding_ms": _MILLISECONDS,
    "silence_duration_ms": _MILLISECONDS,
    "threshold": _SHARE,
}


def recording() -> Schema:
    """Schema of the file itself."""
    return {
        "type": "string",
        "format": "binary",
        "description": "The recording: wav, mp3, m4a, mp4, aac, flac, ogg, opus, webm, mkv, aiff and similar. The "
        "format is detected from its bytes; file name and declared type are ignored.",
    }


def options(info: ModelInfo | None, *, is_job: bool = False) -> dict[str, Schema]:
    """The parameters common to all transcriptions, as they are written in a form.

    is_job: languages are resolved when the job runs, so that a submission accepts any text for one.
    """
    language = _language(None if is_job else info)
    return {
        "model": _model(info),
        "language": {
            **language,
            "description": "The language spoken, by English name or ISO 639-1 code, with or without a region; native "
            "names and ISO 639-2 and -3 codes are understood too. Detected when left out."
            + (" An unknown one fails the job." if is_job else ""),
        },
        "prompt": {
            "type": "string",
            "maxLength": MAX_FIELD_BYTES,
            "description": "Context for the model: names, spellings, the subject. Plain text, never control tokens. "
            "Refused when it leaves no room for the recording in the model's context.",
        },
        "temperature": {
            **_SHARE,
            "default": 0,
            "description": "0 takes the likeliest token; above 0 tokens are sampled.",
        },
        "languages[]": {
            "type": "array",
            "maxItems": MAX_LANGUAGES,
            "items": language,
            "description": "Detection chooses among these only.",
        },
        "keywords[]": {
            "type": "array",
            "maxItems": MAX_KEYWORDS,
            "items": {"type": "string", "maxLength": MAX_KEYWORD_CHARACTERS},
            "description": "Names and terms that the recording may contain. A comma separates two of them.",
        },
        "repetition_penalty": {
            **_number_or_unset("number", 1, 2),
            "default": 1,
            "description": "Above 1, tokens that the text holds already become less likely.",
        },
        "max_tokens": {
            **_number_or_unset("integer", 1, 65_536),
            "description": "Most tokens of one chunk of the recording (chunks are at most 30 s long).",
        },
        "seed": {
            **_number_or_unset("integer", 0, 2**63 - 1),
            "description": "Makes the same request sample the same tokens.",
        },
    }


_STRATEGY_MEANS = (
    "How the recording is cut into chunks. Left out: at pauses that are found by loudness; silence of two seconds and "
    "more is left out. auto: the same with voice detection. server_vad: with its threshold (0.5), its padding before "
    "speech (300 ms) and the silence that ends speech (200 ms). An explicit null: at the quietest points, nothing left "
    "out. Times always refer to the whole recording."
)
_STRATEGY_AS_JSON = (
    r'^\{"type":"server_vad"(,"threshold":0\.[0-9])?'
    r'(,"prefix_padding_ms":(0|[1-9][0-9]{0,3}))?(,"silence_duration_ms":(0|[1-9][0-9]{0,3}))?\}$'
)
"""Texts that clients send; the server accepts any equivalent JSON."""


def transcription_form(info: ModelInfo | None) -> Schema:
    """The multipart form of /v1/audio/transcriptions."""
    properties = {"file": recording(), **options(info), **_answer_options(), **_form_details()}
    return {
        "type": "object",
        "properties": properties,
        "required": ["file"],
        "allOf": [_which_go_together(), _vad_details_need_their_type("chunking_strategy[type]", properties)],
        "description": "Lists may also be sent without the brackets, comma-joined. Unknown fields are ignored; "
        f"at most {MAX_FIELDS} fields are read.",
    }


def _form_details() -> dict[str, Schema]:
    """Further fields of a form, and fields that are only validated."""
    return {
        "chunking_strategy": {
            "anyOf": [{"enum": ["auto", *_UNSET]}, {"type": "string", "pattern": _STRATEGY_AS_JSON}],
            "description": _STRATEGY_MEANS
            + " An object comes as bracketed fields or as one JSON text; an empty "
            "text is as if left out.",
        },
        "chunking_strategy[type]": {"type": "string", "enum": ["server_vad"]},
        **{f"chunking_strategy[{name}]": schema for name, schema in _VAD_DETAILS.items()},
        "known_speaker_names[]": _speaker_names(),
        "known_speaker_references[]": _speaker_references(),
    }


def transcription_json(info: ModelInfo | None) -> Schema:
    """The JSON body of /v1/audio/transcriptions, as some gateways send it."""
    return _whole_json({**options(info), **_answer_options(), "stream": {"type": ["boolean", "null"]}})


def job_form(info: ModelInfo | None, *, has_callbacks: bool = False) -> Schema:
    """The multipart form of a job: the same fields, and the recording in `audio` or `file`."""
    properties = {
        "audio": recording(),
        "file": recording(),
        "callback_url": _callback_url(has_callbacks=has_callbacks),  # a part of a form is text, never null
        **options(info, is_job=True),
        **_job_answer_options(),
        **_form_details(),
    }
    return {
        "type": "object",
        "properties": properties,
        "oneOf": [{"required": ["audio"]}, {"required": ["file"]}],
        "allOf": [
            _which_go_together(is_job=True),
            _vad_details_need_their_type("chunking_strategy[type]", properties),
        ],
        "description": "The recording is in the part `audio` or `file`. Unknown fields are ignored.",
    }


def job_json(info: ModelInfo | None, *, has_callbacks: bool = False) -> Schema:
    """The JSON body of a job."""
    not_streamed: Schema = {"enum": [False, None], "description": "A job is not streamed; follow its events."}
    fields = {**options(info, is_job=True), **_job_answer_options(), "stream": not_streamed}
    fields["callback_url"] = or_null(_callback_url(has_callbacks=has_callbacks))
    return _whole_json(fields, is_job=True)


def _callback_url(*, has_callbacks: bool) -> Schema:
    about = (
        "Receives a signed POST when the job has ended (docs/webhooks.md). Only targets that the operator allowed are "
        "accepted (--allow-callback)"
    )
    if not has_callbacks:
        return {"type": "string", "enum": [""], "description": f"{about}; this server allows none."}
    return {
        "type": "string",
        "format": "uri",
        "maxLength": MAX_URL_CHARACTERS,
        "description": f"{about}.",
    }


def _whole_json(fields: dict[str, Schema], *, is_job: bool = False) -> Schema:
    schema = _json_body(
        {
            **fields,
            "known_speaker_names[]": _speaker_names(),
            "known_speaker_references[]": _speaker_references(),
        }
    )
    schema["properties"]["chunking_strategy"] = {
        "anyOf": [{"enum": ["auto", *_UNSET]}, _vad()],
        "description": _STRATEGY_MEANS,
    }
    schema["allOf"].append(_which_go_together(list_suffix="", is_job=is_job))
    return schema


def _json_body(fields: dict[str, Schema]) -> Schema:
    audio = {
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "format": "byte",
                "contentEncoding": "base64",
                "description": "The recording in base64, without a data: prefix.",
            },
            "format": {"description": "Ignored: detected from the bytes.", "examples": ["wav", "mp3"]},
        },
        "required": ["data"],
    }
    path = {
        "type": "string",
        "minLength": 1,
        "description": "In place of input_audio: the absolute path of a file on the server, inside a folder that it "
        "was started with (--allow-local-files); 403 otherwise.",
    }
    return {
        "type": "object",
        "properties": {
            "input_audio": audio,
            "file_path": path,
            **{name.removesuffix("[]"): _typed(schema) for name, schema in fields.items()},
        },
        "allOf": [{"oneOf": [{"required": ["input_audio"]}, {"required": ["file_path"]}]}],
        "description": "The parameters of the form, with JSON's types. null is as if left out, except for "
        "chunking_strategy; unknown fields are ignored.",
    }


def encoding(form: Schema) -> dict[str, Schema]:
    """Encoding of a form's parts."""
    return {
        name: {"contentType": RECORDING_TYPES} for name in ("file", "audio") if name in form["properties"]
    }


def _answer_options() -> dict[str, Schema]:
    return {
        "response_format": {
            "type": "string",
            "enum": [*get_args(ResponseFormat), ""],
            "default": "json",
        },
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["segment", "word", ""]},
            "description": "word adds `words` to verbose_json and to a job's result: the times of each word, for the "
            "languages of the aligner; `warnings` say where words have no times. Segments always have times.",
        },
        "include[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["logprobs"]},
            "description": "logprobs adds each token's log-probability to json and to the events.",
        },
        "stream": {
            "enum": [True, 1, "true", "1", *_NOT_STREAMED],
            "default": False,
            "description": "Answer with server-sent events (json, text and diarized_json).",
        },
    }


def _job_answer_options() -> dict[str, Schema]:
    return {
        **_answer_options(),
        "response_format": {
            "type": "string",
            "enum": [*get_args(ResponseFormat), ""],
            "default": "json",
            "description": "Default format at the result's own address.",
        },
        "stream": {
            "enum": list(_NOT_STREAMED),
            "default": False,
            "description": "A job is not streamed; follow its events.",
        },
    }


def _vad() -> Schema:
    details = {name: _typed(schema) for name, schema in _VAD_DETAILS.items()}
    properties: dict[str, Schema] = {"type": {"enum": ["server_vad"]}, **details}
    return {
        "type": "object",
        "properties": properties,
        **_vad_details_need_their_type("type", properties),
    }


def _vad_details_need_their_type(kind: str, properties: dict[str, Schema]) -> Schema:
    details = [name for name in properties if any(detail in name for detail in _VAD_DETAILS)]
    return {
        "anyOf": [{"required": [kind]}, {"properties": {name: {"enum": list(_UNSET)} for name in details}}],
    }


def _typed(schema: Schema) -> Schema:
    """A form's field as JSON property: of its own type, or null."""
    if isinstance(schema.get("type"), list):
        kept = {keyword: value for keyword, value in schema.items() if keyword != "pattern"}
        return {**kept, "type": [kind for kind in schema["type"] if kind != "string"]}
    if True in schema.get("enum", ()):
        return {**schema, "enum": [True, False, None]}
    return or_null(schema)


def _which_go_together(*, list_suffix: str = "[]", is_job: bool = False) -> Schema:
    """Rules for answers that need a certain format; null, where it may be sent, is as if left out.

    is_job: words may be requested with any format, because a job's result may be fetched in any.
    """
    no_logprobs = {f"include{list_suffix}": {"maxItems": 0}}
    words = f"timestamp_granularities{list_suffix}"
    no_words: dict[str, Schema] = {} if is_job else {words: {"items": {"enum": ["segment", ""]}}}
    not_streamed = {"stream": {"enum": list(_NOT_STREAMED)}}
    together: list[dict[str, Schema]] = [
        {"response_format": {"enum": ["json", "", None]}, **no_words},
        {"response_format": {"enum": ["text"]}, **no_logprobs, **no_words},
        {"response_format": {"enum": ["srt", "vtt"]}, **not_streamed, **no_logprobs, **no_words},
        {"response_format": {"enum": ["verbose_json"]}, **not_streamed, **no_logprobs},
        {"response_format": {"enum": ["diarized_json"]}, **no_logprobs, **no_words},
    ]
    return {"anyOf": [{"properties": properties} for properties in together]}


def _speaker_names() -> Schema:
    return {
        "type": "array",
        "maxItems": MAX_SPEAKERS,
        "items": {"type": "string", "maxLength": MAX_SPEAKER_NAME_CHARACTERS},
        "description": "diarized_json: names for the voices of known_speaker_references, in the same order. Other "
        "voices are named A, B, C.",
    }


def _speaker_references() -> Schema:
    return {
        "type": "array",
        "maxItems": MAX_SPEAKERS,
        "items": {"type": "string", "pattern": "^(data:audio/[a-z0-9]{1,10};base64,[A-Za-z0-9+/]+)?$"},
        "description": "diarized_json: recordings of one voice each as data URLs, as many as there are "
        f"known_speaker_names, of {MAX_REFERENCE_SECONDS:g} s and 1 MiB at most. Used where the pipeline gives "
        "embeddings of voices.",
    }


def _model(info: ModelInfo | None) -> Schema:
    schema: Schema = {
        "type": "string",
        "description": "The resident model by its id or one of its aliases; 404 for any other. May be left out.",
    }
    return schema if info is None else {**schema, "enum": [*names_of(info), ""]}


def _language(info: ModelInfo | None) -> Schema:
    if info is None:
        return {"type": "string", "maxLength": MAX_LANGUAGE_CHARACTERS}
    codes = "|".join(info.language_codes)
    return {
        "anyOf": [
            {"type": "string", "enum": [*info.languages, *info.language_codes, "auto", ""]},
            {"type": "string", "pattern": f"^({codes})[-_][A-Z][A-Z]$"},
        ]
    }
