"""`GET /openapi.json`: what every address takes and answers, as OpenAPI 3.1.

Written by hand, because nothing can be derived from routes that read their own bodies as these do; a test holds that
every registered route is here, and that answers are what is written here. The document describes this server as it
stands: the names of its model once that is loaded, and the key where one is asked for.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from engine.protocol.config import ModelInfo
from server.routes.bodies import MODEL_HEADER, WARNING_HEADER
from server.routes.openapi.parameters import (
    encoding,
    job_form,
    job_json,
    transcription_form,
    transcription_json,
)
from server.routes.openapi.schemas import SCHEMAS, Schema, one_value, ref
from server.shared_work import RETRY_HEADER

OPENAPI_VERSION = "3.1.0"

EVENT_EXAMPLE = (
    'data: {"type":"transcript.text.delta","delta":"Hello"}\n\n'
    ": keep-alive\n\n"
    'data: {"type":"transcript.text.delta","delta":" there."}\n\n'
    'data: {"type":"transcript.text.done","text":"Hello there.","languages":[{"code":"en"}],"usage":{"type":"tokens",'
    '"input_tokens":22,"input_token_details":{"audio_tokens":13,"text_tokens":9},"output_tokens":4,'
    '"total_tokens":26}}\n\n'
)

_ERRORS = {
    400: "The request or its recording cannot be used; the same one fails again.",
    401: "A key is required and none that is known was sent.",
    403: "Where no key is required: a Host or an Origin that is not answered.",
    404: "There is nothing under this name.",
    408: "The request, or its upload, came too slowly.",
    413: "The recording or its form is larger than accepted.",
    429: "Too much at once, of everyone or of this key.",
    431: "The headers are larger than 64 KiB.",
    500: "The server failed; its log has more under the request id.",
    503: "The model is loading, cannot be loaded, or the server is stopping or full.",
    504: "No transcript within the time that a request may take.",
    507: "The server's disk has no room for the recording.",
}
_ALWAYS_POSSIBLE = (400, 401, 403, 408, 413, 431, 500, 503)
_OPEN = (400, 408, 413, 431, 500, 503)

_REQUEST_ID = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
_ABOUT_MODEL = {
    MODEL_HEADER: {"$ref": "#/components/headers/Model"},
    WARNING_HEADER: {"$ref": "#/components/headers/Warning"},
}


def openapi_document(info: ModelInfo | None, *, needs_key: bool, has_docs: bool) -> dict[str, Any]:
    """The whole description.

    info: the loaded model, whose names and languages become enumerations; None while none is loaded.
    needs_key: whether this server asks for a key. has_docs: whether /docs is served.
    """
    paths = {
        "/v1/audio/transcriptions": {"post": _create_transcription(info)},
        "/v1/audio/translations": {"post": _create_translation()},
        "/v1/models": {"get": _list_models()},
        "/v1/models/{model_id}": {"get": _get_model(info)},
        "/transcribe": {"post": _submit_job(info)},
        "/jobs/{job_id}": {"get": _get_job()},
        "/health/live": {"get": _live()},
        "/health/ready": {"get": _ready()},
        "/openapi.json": {"get": _describe()},
    }
    if has_docs:
        paths["/docs"] = {"get": _docs()}
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "scribewire",
            "version": _version(),
            "description": "Speech to text with OpenAI's API. Errors have OpenAI's shape on every address and status.",
        },
        "paths": paths,
        # An empty requirement beside the key would say that both will do.
        "security": [{"bearer": []}] if needs_key else [],
        "components": {
            "schemas": SCHEMAS,
            "responses": {str(status): _error(status) for status in _ERRORS},
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key made with `scribewire keys create`. None is asked for on a loopback address "
                    "until the first one is made.",
                }
            },
        },
    }


_HEADERS: dict[str, Schema] = {
    "RequestId": {
        "description": "This request's id, as the server's log has it.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]{24}$"},
    },
    "Model": {"description": "The model that answers.", "schema": {"type": "string", "minLength": 1}},
    "Warning": {
        "description": "Plain sentences; the demo model's answers always carry one.",
        "schema": {"type": "string", "minLength": 1},
    },
    "Retry": {
        "description": "Sent when the same recording was not decoded again: this request joined its running work, or "
        "took its finished result.",
        "schema": {"type": "string", "enum": ["joined", "finished"]},
    },
    "RetryAfter": {
        "description": "Seconds after which the same request may succeed; always with 429 and 503.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "RetryAfterMilliseconds": {
        "description": "The same in milliseconds, which OpenAI's SDKs read first.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 120_000},
    },
    "ShouldRetry": {
        "description": "Whether OpenAI's SDKs shall retry, where the status alone would tell them otherwise.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}


def _create_transcription(info: ModelInfo | None) -> Schema:
    form = transcription_form(info)
    texts = {
        "text/plain": "response_format=text: the text and a line break.",
        "application/x-subrip": "response_format=srt: one cue per segment.",
        "text/vtt": "response_format=vtt: one cue per segment.",
    }
    content: dict[str, Schema] = {
        "application/json": {"schema": {"anyOf": [ref("Transcription"), ref("VerboseTranscription")]}},
        **{
            kind: {"schema": {"type": "string", "description": description}}
            for kind, description in texts.items()
        },
        "text/event-stream": {
            # Before OpenAPI 3.2, which has itemSchema, the schema of such a type describes one event.
            "schema": {
                "type": "object",
                "description": "stream=true: server-sent events, and comments that keep the connection alive.",
                "properties": {
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": ref("StreamEvent"),
                    }
                },
                "required": ["data"],
            },
            "example": EVENT_EXAMPLE,
        },
    }
    answer = {
        "description": "The transcript in the format asked for.",
        "headers": {
            **_REQUEST_ID,
            **_ABOUT_MODEL,
            RETRY_HEADER: {"$ref": "#/components/headers/Retry"},
        },
        "content": content,
    }
    return {
        "operationId": "createTranscription",
        "summary": "Transcribe one recording and wait for it.",
        "description": "A client that goes away frees its place. The same recording sent again by the same key with "
        "the same parameters within the retry window (10 minutes unless set otherwise) is not decoded again.",
        "tags": ["openai"],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form, "encoding": encoding(form)},
                "application/json": {"schema": transcription_json(info)},
            },
        },
        "responses": {
            "200": answer,
            **_errors(404, 429, 504, 507, described={403: _FORBIDDEN_FILE}),
        },
    }


_FORBIDDEN_FILE = (
    "A file_path outside the folders that the operator opened; where no key is required, a Host or an Origin that is "
    "not answered."
)


def _create_translation() -> Schema:
    return {
        "operationId": "createTranslation",
        "summary": "Refused: the model does not translate.",
        "tags": ["openai"],
        "responses": _errors(described={400: "Always, with the code unsupported_endpoint."}),
    }


def _list_models() -> Schema:
    return {
        "operationId": "listModels",
        "summary": "The resident model under each name that it answers to.",
        "tags": ["openai"],
        "responses": {"200": _json("The names.", "ModelList", _ABOUT_MODEL), **_errors()},
    }


def _get_model(info: ModelInfo | None) -> Schema:
    return {
        "operationId": "getModel",
        "summary": "The resident model by its id or an alias.",
        "tags": ["openai"],
        "parameters": [
            {
                "name": "model_id",
                "in": "path",
                "required": True,
                "description": "An id may hold slashes, encoded or not.",
                "schema": {"type": "string", "minLength": 1},
                **({} if info is None else {"example": info.model_id}),
            }
        ],
        "responses": {"200": _json("The model.", "Model", _ABOUT_MODEL), **_errors(404)},
    }


def _submit_job(info: ModelInfo | None) -> Schema:
    form = job_form(info)
    accepted = _json(
        "The job; `location` says where to ask for it.",
        "AcceptedJob",
        {"location": {"required": True, "schema": {"type": "string", "pattern": "^/jobs/job_[0-9a-f]{32}$"}}},
    )
    accepted["links"] = {
        "job": {"operationId": "getJob", "parameters": {"job_id": "$response.body#/job_id"}},
    }
    return {
        "operationId": "submitJob",
        "summary": "Submit one recording and ask for its transcript later.",
        "tags": ["jobs"],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form, "encoding": encoding(form)},
                "application/json": {"schema": job_json(info)},
            },
        },
        "responses": {"202": accepted, **_errors(404, 429, 507, described={403: _FORBIDDEN_FILE})},
    }


def _get_job() -> Schema:
    return {
        "operationId": "getJob",
        "summary": "Where a job stands, and its result when it is there.",
        "description": "A job is seen by the key that submitted it only.",
        "tags": ["jobs"],
        "parameters": [
            {
                "name": "job_id",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
                "example": "job_" + "0" * 32,
            }
        ],
        "responses": {"200": _json("The job.", "Job", _ABOUT_MODEL), **_errors(404)},
    }


def _live() -> Schema:
    return {
        "operationId": "live",
        "summary": "The process answers.",
        "tags": ["operation"],
        "security": [],
        "responses": {
            "200": {"description": "Nothing but the status.", "headers": _REQUEST_ID},
            **{str(status): _error_ref(status) for status in _OPEN},
        },
    }


def _ready() -> Schema:
    return {
        "operationId": "ready",
        "summary": "The model is loaded and recordings are taken; 503 with the reason otherwise.",
        "tags": ["operation"],
        "responses": {"200": _json("Ready.", "Readiness", _ABOUT_MODEL), **_errors()},
    }


def _describe() -> Schema:
    document = {
        "type": "object",
        "properties": {"openapi": one_value(OPENAPI_VERSION), "paths": {"type": "object"}},
        "required": ["openapi", "info", "paths", "components"],
    }
    return {
        "operationId": "describe",
        "summary": "This description.",
        "tags": ["operation"],
        "responses": {
            "200": {
                "description": "The description.",
                "headers": _REQUEST_ID,
                "content": {"application/json": {"schema": document}},
            },
            **_errors(),
        },
    }


def _docs() -> Schema:
    return {
        "operationId": "docs",
        "summary": "A page to read this description and to try it.",
        "tags": ["operation"],
        "responses": {
            "200": {
                "description": "The page.",
                "headers": _REQUEST_ID,
                "content": {"text/html": {"schema": {"type": "string"}}},
            },
            **_errors(),
        },
    }


def _json(description: str, shape: str, headers: dict[str, Schema]) -> Schema:
    return {
        "description": description,
        "headers": {**_REQUEST_ID, **headers},
        "content": {"application/json": {"schema": ref(shape)}},
    }


def _errors(*further: int, described: dict[int, str] | None = None) -> dict[str, Schema]:
    """Refusals that any address may answer with, and further ones; `described` says more about some here."""
    statuses = sorted({*_ALWAYS_POSSIBLE, *further})
    said = described or {}
    return {
        str(status): _error(status, said[status]) if status in said else _error_ref(status)
        for status in statuses
    }


def _error_ref(status: int) -> Schema:
    return {"$ref": f"#/components/responses/{status}"}


def _error(status: int, description: str | None = None) -> Schema:
    headers: dict[str, Schema] = {
        **_REQUEST_ID,
        "retry-after": {"$ref": "#/components/headers/RetryAfter"},
        "retry-after-ms": {"$ref": "#/components/headers/RetryAfterMilliseconds"},
        "x-should-retry": {"$ref": "#/components/headers/ShouldRetry"},
    }
    if status == 401:
        headers["www-authenticate"] = {"required": True, "schema": one_value("Bearer")}
    return {
        "description": description or _ERRORS[status],
        "headers": headers,
        "content": {"application/json": {"schema": ref("Error")}},
    }


def _version() -> str:
    try:
        return importlib.metadata.version("scribewire")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that nobody installed
        return "0"
