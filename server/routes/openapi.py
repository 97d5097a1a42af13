"""`GET /openapi.json`: the parameters and answers of every address, as OpenAPI 3.1.

Addresses, names and texts come from the routes, bodies from their pydantic models, formats from the registry. Written
by hand is what none of these can say: the refusals, the headers and the events; tests check that answers match. The
document describes this server's present state: the names of its model once it is loaded.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.http.answers import Answer, Error
from scribewire.server.intake.formats import FORMATS
from scribewire.server.intake.request import TranscriptionRequest
from scribewire.server.routes.documents import MODEL_HEADER, WARNING_HEADER
from scribewire.server.routes.request_schema import Schema, plain, request_body, request_schemas

OPENAPI_VERSION = "3.1.0"
JSON = "application/json"

REFUSALS = {
    400: "The request or its recording is invalid; the same one fails again.",
    401: "A key is required, and none or an unknown one was sent.",
    403: "Where no key is required: a Host or an Origin that is not allowed.",
    404: "Not found.",
    408: "The request, or its upload, was too slow.",
    413: "The recording or its form is too large.",
    429: "Too many requests, of all clients or of this key.",
    431: "The headers are larger than 64 KiB.",
    500: "The server failed; its log has more under the request id.",
    503: "The model is loading or cannot be loaded, or the server is stopping or full.",
    504: "No transcript within the time limit of a request.",
    507: "The server's disk has no room for the recording.",
}
_ALWAYS_POSSIBLE = (400, 401, 403, 408, 413, 431, 500, 503)
FORBIDDEN_FILE = (
    "A file_path outside the folders that the operator allowed; where no key is required, a Host or an Origin that is "
    "not allowed."
)

_HEADERS: Mapping[str, Schema] = {
    "RequestId": {
        "description": "This request's id, as in the server's log.",
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
        "description": "Advice for OpenAI's SDKs on retries, where it differs from their rule for the status.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}


def header(name: str) -> Schema:
    """A reference to one of the headers above."""
    return {"$ref": f"#/components/headers/{name}"}


def ref(model: type[Answer] | str) -> Schema:
    """A reference to an answer's schema."""
    return {"$ref": f"#/components/schemas/{model if isinstance(model, str) else model.__name__}"}


ABOUT_MODEL: Mapping[str, Schema] = {MODEL_HEADER: header("Model"), WARNING_HEADER: header("Warning")}
_REQUEST_ID: Mapping[str, Schema] = {"x-request-id": header("RequestId")}

DOCUMENT: Schema = {
    "schema": {
        "type": "object",
        "properties": {
            "openapi": {"type": "string", "const": OPENAPI_VERSION},
            "paths": {"type": "object"},
        },
        "required": ["openapi", "info", "paths", "components"],
    }
}


class ReadingRoute(APIRoute):
    """A route that answers HEAD where it answers GET, as Starlette's own do; the protocol leaves the body out."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.methods and "GET" in self.methods:
            self.methods.add("HEAD")


# ---- for the routes ----------------------------------------------------------------------------------------------


def described(
    description: str = "",
    body: type[Answer] | Mapping[str, Schema] | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, Schema] | None = None,
    links: Schema | None = None,
    request: type[TranscriptionRequest] | None = None,
    parameters: Sequence[Schema] = (),
    refusals: Mapping[int, str | None] | None = None,
    needs_key: bool = True,
) -> dict[str, Any]:
    """What a route's own code does not say of its operation, as FastAPI's `openapi_extra`.

    body: a model, or the content by media type. description: of success, empty when there is none.
    refusals: those besides the ones of every address, and descriptions in place of the usual ones.
    """
    content = {JSON: {"schema": ref(body)}} if isinstance(body, type) else body
    success = {
        "description": description,
        "headers": {**_REQUEST_ID, **(headers or {})},
        **({"content": content} if content else {}),
        **({"links": links} if links else {}),
    }
    further = refusals or {}
    always = [one for one in _ALWAYS_POSSIBLE if needs_key or one not in (401, 403)]
    return {
        **({} if needs_key else {"security": []}),
        **({"parameters": [*parameters]} if parameters else {}),
        **({"requestBody": request_body(request)} if request is not None else {}),
        "responses": {
            **({str(status): success} if description else {}),
            **{
                str(one): _refusal(one, text)
                if (text := further.get(one)) is not None
                else {"$ref": f"#/components/responses/{one}"}
                for one in sorted({*always, *further})
            },
        },
    }


def in_query(model: type[BaseModel]) -> list[Schema]:
    """The parameters of a query."""
    described = (
        (name, schema, schema.pop("description", ""))
        for name, schema in plain(model.model_json_schema())["properties"].items()
    )
    return [
        {"name": name, "in": "query", "schema": schema, "description": text}
        for name, schema, text in described
    ]


def in_header(name: str, description: str, **schema: Any) -> Schema:
    """A parameter in a header."""
    return {"name": name, "in": "header", "schema": schema, "description": description}


def texts(*media_types: str) -> dict[str, Schema]:
    """Content that is a text."""
    return {one: {"schema": {"type": "string"}} for one in media_types}


def transcripts() -> dict[str, Schema]:
    """A transcript in every response format."""
    documents = [ref(one) for one in ("Transcription", "VerboseTranscription", "DiarizedTranscription")]
    return {
        JSON: {"schema": {"anyOf": documents}},
        **{
            one.media_type: {
                "schema": {"type": "string", "description": f"response_format={one.name}: {one.about}."}
            }
            for one in FORMATS.values()
            if not one.is_json
        },
    }


def event_stream(data: str, example: str, kinds: Sequence[str], *, is_log: bool = False) -> dict[str, Schema]:
    """Server-sent events. data: their schema. kinds: their names.

    is_log: each has a name and an id. Otherwise errors have no name, and `[DONE]` follows the last event.
    """
    body: Schema = {"type": "string", "contentMediaType": JSON, "contentSchema": ref(data)}
    name: Schema = {"type": "string", "enum": [*kinds]}
    properties: dict[str, Schema]
    if is_log:
        properties = {"id": {"type": "string", "pattern": "^[1-9][0-9]*$"}, "event": name, "data": body}
    else:
        properties = {"event": name, "data": {"anyOf": [{"const": "[DONE]"}, body]}}
    # Before OpenAPI 3.2, which has itemSchema, the schema of such a type describes one event.
    schema = {
        "type": "object",
        "description": "Server-sent events, and comments that keep the connection alive.",
        "properties": properties,
        "required": list(properties) if is_log else ["data"],
    }
    return {"text/event-stream": {"schema": schema, "example": example}}


def _refusal(status: int, description: str) -> Schema:
    headers = {
        **_REQUEST_ID,
        "retry-after": header("RetryAfter"),
        "retry-after-ms": header("RetryAfterMilliseconds"),
        "x-should-retry": header("ShouldRetry"),
    }
    if status == 401:
        headers["www-authenticate"] = {"required": True, "schema": {"type": "string", "const": "Bearer"}}
    return {"description": description, "headers": headers, "content": {JSON: {"schema": ref(Error)}}}


# ---- the document ------------------------------------------------------------------------------------------------


def custom_openapi(
    routers: Sequence[APIRouter], info: ModelInfo | None, names: Sequence[str] = (), *, has_callbacks: bool
) -> dict[str, Any]:
    """The whole description.

    info: the loaded model, whose languages become an enumeration; None while none is loaded.
    names: of the model, which become another one; empty while it is not loaded, and where any name is taken.
    has_callbacks: True when any target of callbacks is allowed.
    """
    paths: dict[str, dict[str, Schema]] = {}
    for path, method, operation in _operations(routers, info):
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "scribewire",
            "version": _version(),
            "description": "Speech to text with OpenAI's API. Errors have OpenAI's shape on every address and status. "
            "HEAD is answered where GET is, and a trailing slash changes nothing. /openai/v1/ in place of /v1/ (Groq's "
            "addresses) and /openai/deployments/MODEL/ (Azure's) lead to the same places.",
        },
        "paths": paths,
        "components": {
            "schemas": {**_answer_schemas(), **request_schemas(info, names, has_callbacks=has_callbacks)},
            "responses": {str(status): _refusal(status, text) for status, text in REFUSALS.items()},
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key made with `scribewire keys create`; `x-api-key` and `api-key` are read too. "
                    "On a loopback address none is required until the first one is made.",
                }
            },
        },
    }


def _operations(
    routers: Sequence[APIRouter], info: ModelInfo | None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of every route."""
    examples = {"job_id": "job_" + "0" * 32, "model_id": "" if info is None else info.model_id}
    for route in [one for router in routers for one in router.routes]:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        summary, _, more = inspect.cleandoc(route.endpoint.__doc__ or "").partition("\n")
        first, *others = route.name.split("_")
        in_path = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            | ({"example": examples[name]} if examples[name] else {})
            for name in re.findall(r"\{(\w+)", route.path)
        ]
        extra = dict(route.openapi_extra or {})
        parameters = [*in_path, *extra.pop("parameters", ())]
        operation = {
            "operationId": first + "".join(one.title() for one in others),
            "summary": summary,
            **({"description": " ".join(more.split())} if more else {}),
            "tags": route.tags,
            **({"parameters": parameters} if parameters else {}),
            **extra,
        }
        # HEAD goes without saying where there is GET.
        for method in (route.methods or set()) - {"HEAD"}:
            yield route.path_format, method.lower(), operation


@functools.cache
def _answer_schemas() -> dict[str, Schema]:
    _, schemas = models_json_schema(
        [(one, "serialization") for one in sorted(_kinds_of(Answer), key=lambda one: one.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    stream_event: Schema = {
        "description": "The `data` of one server-sent event. The last one is `transcript.text.done`, whose text is the "
        "deltas joined, or an error.",
        "anyOf": [ref(one) for one in ("TextDeltaEvent", "DiarizedSegment", "TextDoneEvent", "Error")],
    }
    return {**plain(schemas["$defs"]), "StreamEvent": stream_event}


def _kinds_of(kind: type[Answer]) -> set[type[Answer]]:
    return {one for below in kind.__subclasses__() for one in (below, *_kinds_of(below))}


def _version() -> str:
    try:
        return importlib.metadata.version("scribewire")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
