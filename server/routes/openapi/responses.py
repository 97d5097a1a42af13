"""Parts common to all answers: the refusals of every address, the headers, and an answer with one of the schemas."""

from __future__ import annotations

from scribewire.server.routes.bodies import MODEL_HEADER, WARNING_HEADER
from scribewire.server.routes.openapi.schemas import Schema, one_value, ref

ERRORS = {
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
ALWAYS_POSSIBLE = (400, 401, 403, 408, 413, 431, 500, 503)
OPEN = (400, 408, 413, 431, 500, 503)

REQUEST_ID = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
ABOUT_MODEL = {
    MODEL_HEADER: {"$ref": "#/components/headers/Model"},
    WARNING_HEADER: {"$ref": "#/components/headers/Warning"},
}

HEADERS: dict[str, Schema] = {
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

FORBIDDEN_FILE = (
    "A file_path outside the folders that the operator allowed; where no key is required, a Host or an Origin that is "
    "not allowed."
)


def json_answer(description: str, shape: str, headers: dict[str, Schema]) -> Schema:
    """An answer whose body is one of the schemas."""
    return {
        "description": description,
        "headers": {**REQUEST_ID, **headers},
        "content": {"application/json": {"schema": ref(shape)}},
    }


def errors(*further: int, described: dict[int, str] | None = None) -> dict[str, Schema]:
    """Refusals of every address, and further ones; `described` replaces the description of some."""
    statuses = sorted({*ALWAYS_POSSIBLE, *further})
    said = described or {}
    return {
        str(status): error(status, said[status]) if status in said else error_ref(status)
        for status in statuses
    }


def error_ref(status: int) -> Schema:
    """Reference to a refusal that is described once for all addresses."""
    return {"$ref": f"#/components/responses/{status}"}


def error(status: int, description: str | None = None) -> Schema:
    """A refusal with the one error schema."""
    headers: dict[str, Schema] = {
        **REQUEST_ID,
        "retry-after": {"$ref": "#/components/headers/RetryAfter"},
        "retry-after-ms": {"$ref": "#/components/headers/RetryAfterMilliseconds"},
        "x-should-retry": {"$ref": "#/components/headers/ShouldRetry"},
    }
    if status == 401:
        headers["www-authenticate"] = {"required": True, "schema": one_value("Bearer")}
    return {
        "description": description or ERRORS[status],
        "headers": headers,
        "content": {"application/json": {"schema": ref("Error")}},
    }
