"""Schemas of the server's answers, as JSON Schema 2020-12 under `components/schemas`.

Exact: an answer holds the properties named here and no others, so that a test detects an added or a lost one.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer", "minimum": 0}
UNIX_SECONDS: Schema = {"type": "integer", "minimum": 0, "description": "Unix time, whole seconds."}
SECONDS: Schema = {"type": "number", "minimum": 0, "description": "Seconds of the recording."}
WARNINGS: Schema = {
    "type": "array",
    "items": TEXT,
    "minItems": 1,
    "description": "Plain sentences about this answer, such as that a truncated file was transcribed up to its end. "
    "Left out when there are none.",
}


def ref(name: str) -> Schema:
    """A reference to one of the schemas below."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    """The schema or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def closed(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), description: str = "") -> Schema:
    """An object of exactly these properties, all required except those named optional."""
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
    return {**schema, "description": description} if description else schema


def list_of(items: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": items}


def one_value(value: str) -> Schema:
    """A schema that allows only this text."""
    return {"type": "string", "const": value}


TRANSCRIPTION_SHAPES: Schema = {
    "anyOf": [ref("Transcription"), ref("VerboseTranscription"), ref("DiarizedTranscription")]
}
"""Schemas of a transcription in JSON."""

ERROR_TYPES = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
)

_ERROR_FIELDS = closed(
    {
        "message": {"type": "string", "minLength": 1},
        "type": {"type": "string", "enum": list(ERROR_TYPES)},
        "param": {**or_null(TEXT), "description": "The field at fault, if one is."},
        "code": {"type": "string", "minLength": 1, "description": "Stable, for programs."},
    },
    description="OpenAI's error object.",
)

_SEGMENT = closed(
    {
        "id": INTEGER,
        "seek": {"type": "integer", "minimum": 0, "description": "The start in units of 10 ms."},
        "start": SECONDS,
        "end": SECONDS,
        "text": TEXT,
        "tokens": list_of(INTEGER),
        "temperature": {"type": "number", "minimum": 0},
        "avg_logprob": {"type": "number", "maximum": 0},
        "compression_ratio": {"type": "number", "minimum": 0},
        "no_speech_prob": {"type": "number", "minimum": 0, "maximum": 1},
    }
)

WORDS: Schema = {
    **list_of(ref("Word")),
    "description": "Only with timestamp_granularities[]=word.",
}

_TRANSCRIPTION = {
    "text": TEXT,
    "languages": {
        **list_of(closed({"code": TEXT})),
        "description": "Languages recognized, in order of appearance; empty where there was no speech.",
    },
    "logprobs": {
        **list_of(ref("TokenLogprob")),
        "description": "Only with include[]=logprobs.",
    },
    "usage": ref("TokenUsage"),
    "warnings": WARNINGS,
}

SCHEMAS: dict[str, Schema] = {
    "Error": closed({"error": ref("ErrorFields")}),
    "ErrorFields": _ERROR_FIELDS,
    "TokenUsage": closed(
        {
            "type": one_value("tokens"),
            "input_tokens": INTEGER,
            "input_token_details": closed({"audio_tokens": INTEGER, "text_tokens": INTEGER}),
            "output_tokens": INTEGER,
            "total_tokens": INTEGER,
        }
    ),
    "DurationUsage": closed({"type": one_value("duration"), "seconds": SECONDS}),
    "TokenLogprob": closed(
        {
            "token": TEXT,
            "bytes": list_of({"type": "integer", "minimum": 0, "maximum": 255}),
            "logprob": {"type": "number", "maximum": 0},
        },
        description="A token of the text and its natural log-probability.",
    ),
    "Transcription": closed(
        _TRANSCRIPTION, optional=("logprobs", "warnings"), description="response_format=json."
    ),
    "VerboseTranscription": closed(
        {
            "task": one_value("transcribe"),
            "language": {
                "type": "string",
                "description": "English name in lower case, `unknown` where there was no speech.",
            },
            "duration": SECONDS,
            "text": TEXT,
            "segments": list_of(ref("Segment")),
            "words": WORDS,
            "usage": ref("DurationUsage"),
            "warnings": WARNINGS,
        },
        optional=("words", "warnings"),
        description="response_format=verbose_json.",
    ),
    "DiarizedTranscription": closed(
        {
            "task": one_value("transcribe"),
            "duration": SECONDS,
            "text": TEXT,
            "segments": list_of(ref("DiarizedSegment")),
            "usage": ref("DurationUsage"),
            "warnings": WARNINGS,
        },
        optional=("warnings",),
        description="response_format=diarized_json.",
    ),
    "DiarizedSegment": closed(
        {
            "type": one_value("transcript.text.segment"),
            "id": {"type": "string", "pattern": "^seg_[0-9]{3,}$"},
            "start": SECONDS,
            "end": SECONDS,
            "text": TEXT,
            "speaker": {
                "type": "string",
                "minLength": 1,
                "description": "A known name, else A, B, C in the order in which they are first heard.",
            },
        },
        description="What one speaker says; also an event of a stream.",
    ),
    "Segment": _SEGMENT,
    "Word": closed(
        {"word": TEXT, "start": SECONDS, "end": SECONDS},
        description="A word with its punctuation. Chinese, Cantonese: every character.",
    ),
    "TextDeltaEvent": closed(
        {
            "type": one_value("transcript.text.delta"),
            "delta": TEXT,
            "logprobs": list_of(ref("TokenLogprob")),
        },
        optional=("logprobs",),
    ),
    "TextDoneEvent": closed(
        {"type": one_value("transcript.text.done"), **_TRANSCRIPTION}, optional=("logprobs", "warnings")
    ),
    "StreamEvent": {
        "description": "The `data` of one server-sent event. The last one is `transcript.text.done`, whose text is the "
        "deltas joined, or an error.",
        "anyOf": [
            ref("TextDeltaEvent"),
            ref("DiarizedSegment"),
            ref("TextDoneEvent"),
            ref("Error"),
        ],
    },
    "Model": closed(
        {
            "id": TEXT,
            "object": one_value("model"),
            "created": UNIX_SECONDS,
            "owned_by": TEXT,
            "demo": {"type": "boolean", "description": "True for the bundled demo model."},
            "description": TEXT,
            "resident_model": {"type": "string", "description": "The resident model's id."},
            "languages": list_of(TEXT),
        }
    ),
    "ModelList": closed({"object": one_value("list"), "data": list_of(ref("Model"))}),
    "Readiness": closed(
        {"status": one_value("ready"), "model": TEXT, "demo": {"type": "boolean"}, "device": TEXT}
    ),
}
