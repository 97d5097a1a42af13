"""The schemas of a request: its model's, as the parts of a form and as the properties of a JSON body.

Both have the same parameters: a list is sent as `name[]` in a form and as an array in JSON, an object as bracketed
fields in a form. The resident model's names and languages are listed once it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.intake.form import MAX_FIELDS
from scribewire.server.intake.formats import DEFAULT_FORMAT, FORMATS
from scribewire.server.intake.job_request import JobRequest
from scribewire.server.intake.request import ChunkingStrategy, TranscriptionRequest

Schema = dict[str, Any]

RECORDING_TYPES = (
    "audio/wav, audio/mpeg, audio/mp4, audio/aac, audio/flac, audio/ogg, audio/aiff, video/mp4, video/webm, "
    "application/octet-stream"
)
_UNSET = (None, "", "null", "none")
"""Values that clients send for an unset parameter; each is as if left out."""

_NOT_STREAMED = (False, 0, "false", "0", *_UNSET)
_RECORDING: Schema = {
    "type": "string",
    "format": "binary",
    "description": "The recording: wav, mp3, m4a, mp4, aac, flac, ogg, opus, webm, mkv, aiff and similar. The format "
    "is detected from its bytes, not from file name or declared type.",
}
_JSON_RECORDING: Schema = {
    "input_audio": {
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
    },
    "file_path": {
        "type": "string",
        "minLength": 1,
        "description": "In place of input_audio: the absolute path of a file on the server, inside a folder that it "
        "was started with (--allow-local-files); 403 otherwise.",
    },
}
_STRATEGY = "chunking_strategy"
_STRATEGY_AS_JSON = r'^\{"type":"server_vad"\}$'
"""A text that clients send. The server accepts any equivalent JSON, its details too, where bracketed fields do not say
otherwise; a schema cannot say that."""


def request_body(model: type[TranscriptionRequest]) -> Schema:
    """A request's body in both kinds."""
    form, body = (
        {"schema": {"$ref": f"#/components/schemas/{one}"}} for one in (_form_name(model), model.__name__)
    )
    encoding = {one: {"contentType": RECORDING_TYPES} for one in _recording_fields(model)}
    content = {"multipart/form-data": {**form, "encoding": encoding}, "application/json": body}
    return {"required": True, "content": content}


def request_schemas(
    info: ModelInfo | None, names: Sequence[str] = (), *, has_callbacks: bool
) -> dict[str, Schema]:
    """The schemas of both requests in both kinds; arguments as of custom_openapi."""
    found = {}
    for model in (TranscriptionRequest, JobRequest):
        fields = _fields(model, info, names, has_callbacks=has_callbacks)
        found[_form_name(model)] = _form(model, fields)
        found[model.__name__] = _json_body(model, fields)
    return found


def plain(schema: Any) -> Any:
    """A copy of pydantic's schema without titles, and without null where it only stands for a field left out."""
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("default", ...) is None and "anyOf" in schema:
        schema = schema["anyOf"][0] | {name: one for name, one in schema.items() if name != "anyOf"}
    kept = {name: one for name, one in schema.items() if name != "title" or not isinstance(one, str)}
    return {name: plain(one) for name, one in kept.items() if name != "default" or one not in (None, [])}


def _form_name(model: type[TranscriptionRequest]) -> str:
    return model.__name__.replace("Request", "Form")


def _recording_fields(model: type[TranscriptionRequest]) -> tuple[str, ...]:
    return ("audio", "file") if model is JobRequest else ("file",)


def _fields(
    model: type[TranscriptionRequest], info: ModelInfo | None, names: Sequence[str], *, has_callbacks: bool
) -> dict[str, Schema]:
    """Each field's schema as the model has it, narrowed to what this server accepts now."""
    fields: dict[str, Schema] = plain(model.model_json_schema())["properties"]
    if names:
        fields["model"]["enum"] = [*names, ""]
    if model is JobRequest:
        fields["response_format"]["description"] = "Default format at the result's own address."
        fields["stream"]["description"] = "A job is not streamed; follow its events."
        if has_callbacks:
            fields["callback_url"]["description"] += "."
        else:
            told = f"{fields['callback_url']['description']}; this server allows none."
            fields["callback_url"] = {"type": "string", "enum": [""], "description": told}
    if info is not None:
        language = _languages(info)
        fields["language"] = {**language, "description": fields["language"]["description"]}
        fields["languages"]["items"] = language
    # Clients may send other encodings of data URLs; a description gives one.
    fields["known_speaker_references"]["items"] = {
        "type": "string",
        "pattern": "^(data:audio/[a-z0-9]{1,10};base64,[A-Za-z0-9+/]+)?$",
    }
    return {name: _as_sent(name, schema, model) for name, schema in fields.items()}


def _as_sent(name: str, schema: Schema, model: type[TranscriptionRequest]) -> Schema:
    """A schema with the texts that stand for the value, or for none."""
    if name == "stream":
        values = [*([] if model is JobRequest else [True, 1, "true", "1"]), *_NOT_STREAMED]
        return {"enum": values, "default": False, "description": schema["description"]}
    if schema.get("type") in ("integer", "number"):
        return {**schema, "type": [schema["type"], "string", "null"], "pattern": "^(null|none)?$"}
    if name == "response_format":
        return {**schema, "enum": [*schema["enum"], ""]}
    if name == "timestamp_granularities":
        return {**schema, "items": {"type": "string", "enum": [*schema["items"]["enum"], ""]}}
    return schema


def _strategy_details() -> dict[str, Schema]:
    details = plain(ChunkingStrategy.model_json_schema())["properties"]
    del details["type"]
    return {name: _as_sent(name, schema, TranscriptionRequest) for name, schema in details.items()}


def _form(model: type[TranscriptionRequest], fields: dict[str, Schema]) -> Schema:
    properties: dict[str, Schema] = dict.fromkeys(_recording_fields(model), _RECORDING)
    for name, schema in fields.items():
        properties[f"{name}[]" if schema.get("type") == "array" else name] = schema
    details = {f"{_STRATEGY}[{name}]": schema for name, schema in _strategy_details().items()}
    kind = f"{_STRATEGY}[type]"
    told = fields[_STRATEGY]["description"]
    properties[_STRATEGY] = {
        "anyOf": [{"enum": ["auto", *_UNSET]}, {"type": "string", "pattern": _STRATEGY_AS_JSON}],
        "description": f"{told} An object comes as bracketed fields or as one JSON text; an empty text is as if left "
        "out.",
    }
    properties |= {kind: {"type": "string", "enum": ["server_vad"]}, **details}
    recordings = [{"required": [one]} for one in _recording_fields(model)]
    return {
        "type": "object",
        "properties": properties,
        **({"oneOf": recordings} if len(recordings) > 1 else recordings[0]),
        "allOf": [_which_go_together(model, "[]"), _details_need_their_type(kind, details)],
        "description": "Lists may also be sent without the brackets, numbered, or comma-joined. A field that is empty, "
        f"null or None is as if left out. Unknown fields are ignored; at most {MAX_FIELDS} fields are read.",
    }


def _json_body(model: type[TranscriptionRequest], fields: dict[str, Schema]) -> Schema:
    properties = {name: _or_null(schema) for name, schema in fields.items()}
    details = _strategy_details()
    strategy: Schema = {
        "type": "object",
        "properties": {"type": {"enum": ["server_vad"]}, **details},
        **_details_need_their_type("type", details),
    }
    properties[_STRATEGY] = {
        "anyOf": [{"enum": ["auto", *_UNSET]}, strategy],
        "description": fields[_STRATEGY]["description"],
    }
    recordings = [{"required": [one]} for one in _JSON_RECORDING]
    return {
        "type": "object",
        "properties": {**_JSON_RECORDING, **properties},
        "allOf": [{"oneOf": recordings}, _which_go_together(model, "")],
        "description": "The parameters of the form, with JSON's types; numbers and booleans may be texts, and a list "
        "one comma-joined text. null is as if left out, except for chunking_strategy; unknown fields are ignored.",
    }


def _or_null(schema: Schema) -> Schema:
    may_be_null = "null" in schema.get("type", ()) or None in schema.get("enum", ())
    return schema if may_be_null else {"anyOf": [schema, {"type": "null"}]}


def _details_need_their_type(kind: str, details: dict[str, Schema]) -> Schema:
    return {"anyOf": [{"required": [kind]}, {"properties": {one: {"enum": list(_UNSET)} for one in details}}]}


def _which_go_together(model: type[TranscriptionRequest], suffix: str) -> Schema:
    """Rules for answers that need a certain format; null, where it may be sent, is as if left out.

    A job may ask for words with any format, because its result may be fetched in any.
    """
    no_words = {f"timestamp_granularities{suffix}": {"items": {"enum": ["segment", ""]}}}
    return {
        "anyOf": [
            {
                "properties": {
                    "response_format": {
                        "enum": [one.name, *(["", None] if one.name == DEFAULT_FORMAT else [])]
                    },
                    **({} if "stream" in one.takes else {"stream": {"enum": list(_NOT_STREAMED)}}),
                    **({} if "logprobs" in one.takes else {f"include{suffix}": {"maxItems": 0}}),
                    **({} if "words" in one.takes or model is JobRequest else no_words),
                }
            }
            for one in FORMATS.values()
        ]
    }


def _languages(info: ModelInfo) -> Schema:
    codes = "|".join(info.language_codes)
    return {
        "anyOf": [
            {"type": "string", "enum": [*info.languages, *info.language_codes, "auto", ""]},
            {"type": "string", "pattern": f"^({codes})[-_][A-Z][A-Z]$"},
        ]
    }
