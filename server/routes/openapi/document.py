"""`GET /openapi.json`: the parameters and answers of every address, as OpenAPI 3.1.

Written by hand, because nothing can be derived from routes that read their own bodies; tests check that every
registered route is here, and that answers match the document. It describes this server's present state: the names of
its model once it is loaded, and the key where one is required.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.routes.openapi.job_schemas import JOB_SCHEMAS
from scribewire.server.routes.openapi.jobs import job_paths
from scribewire.server.routes.openapi.parameters import encoding, transcription_form, transcription_json
from scribewire.server.routes.openapi.responses import (
    ABOUT_MODEL,
    ERRORS,
    FORBIDDEN_FILE,
    HEADERS,
    OPEN,
    REQUEST_ID,
    error,
    error_ref,
    errors,
    json_answer,
)
from scribewire.server.routes.openapi.schemas import SCHEMAS, TRANSCRIPTION_SHAPES, Schema, one_value, ref
from scribewire.server.transcription.sharing import RETRY_HEADER

OPENAPI_VERSION = "3.1.0"

EVENT_EXAMPLE = (
    'data: {"type":"transcript.text.delta","delta":"Hello"}\n\n'
    ": keep-alive\n\n"
    'data: {"type":"transcript.text.delta","delta":" there."}\n\n'
    'data: {"type":"transcript.text.done","text":"Hello there.","languages":[{"code":"en"}],"usage":{"type":"tokens",'
    '"input_tokens":22,"input_token_details":{"audio_tokens":13,"text_tokens":9},"output_tokens":4,'
    '"total_tokens":26}}\n\n'
)


def openapi_document(
    info: ModelInfo | None, *, needs_key: bool, has_docs: bool, has_callbacks: bool = False
) -> dict[str, Any]:
    """The whole description.

    info: the loaded model, whose names and languages become enumerations; None while none is loaded.
    needs_key: True when this server requires a key. has_docs: True when /docs is served.
    has_callbacks: True when any target of callbacks is allowed.
    """
    paths = {
        "/v1/audio/transcriptions": {"post": _create_transcription(info)},
        "/v1/audio/translations": {"post": _create_translation()},
        "/v1/models": {"get": _list_models()},
        "/v1/models/{model_id}": {"get": _get_model(info)},
        **job_paths(info, has_callbacks=has_callbacks),
        "/health/live": {"get": _live()},
        "/health/ready": {"get": _ready()},
        "/metrics": {"get": _metrics()},
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
        # An empty requirement beside the key would make the key optional.
        "security": [{"bearer": []}] if needs_key else [],
        "components": {
            "schemas": SCHEMAS | JOB_SCHEMAS,
            "responses": {str(status): error(status) for status in ERRORS},
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key made with `scribewire keys create`. On a loopback address none is required "
                    "until the first one is made.",
                }
            },
        },
    }


def _create_transcription(info: ModelInfo | None) -> Schema:
    form = transcription_form(info)
    texts = {
        "text/plain": "response_format=text: the text and a line break.",
        "application/x-subrip": "response_format=srt: SubRip, with word times where an aligner is installed.",
        "text/vtt": "response_format=vtt: WebVTT, with word times where an aligner is installed.",
    }
    content: dict[str, Schema] = {
        "application/json": {"schema": TRANSCRIPTION_SHAPES},
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
        "description": "The transcript in the requested format.",
        "headers": {
            **REQUEST_ID,
            **ABOUT_MODEL,
            RETRY_HEADER: {"$ref": "#/components/headers/Retry"},
        },
        "content": content,
    }
    return {
        "operationId": "createTranscription",
        "summary": "Transcribe one recording and wait for the transcript.",
        "description": "Disconnecting cancels the request. The same recording sent again by the same key with "
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
            **errors(404, 429, 504, 507, described={403: FORBIDDEN_FILE}),
        },
    }


def _create_translation() -> Schema:
    return {
        "operationId": "createTranslation",
        "summary": "Refused: the model does not translate.",
        "tags": ["openai"],
        "responses": errors(described={400: "Always, with the code unsupported_endpoint."}),
    }


def _list_models() -> Schema:
    return {
        "operationId": "listModels",
        "summary": "The resident model under its id and each alias.",
        "tags": ["openai"],
        "responses": {"200": json_answer("The names.", "ModelList", ABOUT_MODEL), **errors()},
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
        "responses": {"200": json_answer("The model.", "Model", ABOUT_MODEL), **errors(404)},
    }


def _live() -> Schema:
    return {
        "operationId": "live",
        "summary": "The process answers.",
        "tags": ["operation"],
        "security": [],
        "responses": {
            "200": {"description": "The status alone.", "headers": REQUEST_ID},
            **{str(status): error_ref(status) for status in OPEN},
        },
    }


def _ready() -> Schema:
    return {
        "operationId": "ready",
        "summary": "The model is loaded and recordings are accepted; 503 with the reason otherwise.",
        "tags": ["operation"],
        "responses": {"200": json_answer("Ready.", "Readiness", ABOUT_MODEL), **errors()},
    }


def _metrics() -> Schema:
    return {
        "operationId": "metrics",
        "summary": "Metrics for Prometheus.",
        "description": "Requires a key where the other addresses do.",
        "tags": ["operation"],
        "responses": {
            "200": {
                "description": "Every metric with its help text.",
                "headers": REQUEST_ID,
                "content": {
                    kind: {"schema": {"type": "string"}}
                    for kind in ("text/plain", "application/openmetrics-text")
                },
            },
            **errors(),
        },
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
                "headers": REQUEST_ID,
                "content": {"application/json": {"schema": document}},
            },
            **errors(),
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
                "headers": REQUEST_ID,
                "content": {"text/html": {"schema": {"type": "string"}}},
            },
            **errors(),
        },
    }


def _version() -> str:
    try:
        return importlib.metadata.version("scribewire")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
