"""Every failure as HTTP: one status per engine error code, one JSON shape for all of them.

The shape is OpenAI's: `{"error": {"message", "type", "param", "code"}}`, with `x-request-id`. SDKs retry 408, 409,
429 and every 5xx, each time with the whole upload, so an error that a retry cannot fix is a 4xx or carries
`x-should-retry: false`. Every 429 and 503 carries the time until a retry: `Retry-After` for all clients, and
`retry-after-ms`, which the SDKs read first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route

from scribewire.engine.protocol.errors import AudioError, EngineError, EngineUnavailable
from scribewire.server.observability.logs import log_event

REQUEST_ID_HEADER = "x-request-id"
DEFAULT_RETRY_AFTER_SECONDS = 5
MAX_RETRY_AFTER_SECONDS = 120
"""The SDKs ignore a longer pause and do not wait at all."""

logger = logging.getLogger("scribewire.errors")


@dataclass(frozen=True, slots=True)
class Rule:
    """Status and retry advice for one error code. should_retry None leaves the decision to the status."""

    status: int
    retry_after_seconds: int | None = None
    should_retry: bool | None = None


_BAD_REQUEST = Rule(400)
# For proxies and scripts that support Retry-After only; the SDKs use x-should-retry.
_MODEL_BROKEN = Rule(503, retry_after_seconds=60, should_retry=False)

ENGINE_ERROR_RULES: Mapping[str, Rule] = {
    # Unexpected errors, which are not known to be temporary.
    "engine_error": Rule(500, should_retry=False),
    # The recording: the same bytes fail again.
    "audio_invalid": _BAD_REQUEST,
    "audio_undecodable": _BAD_REQUEST,
    "audio_empty": _BAD_REQUEST,
    "audio_format_unsupported": _BAD_REQUEST,
    "audio_track_missing": _BAD_REQUEST,
    "audio_truncated": _BAD_REQUEST,
    "audio_too_short": _BAD_REQUEST,
    "audio_too_long": _BAD_REQUEST,
    "audio_parameters_unsupported": _BAD_REQUEST,
    "audio_unreadable": _BAD_REQUEST,
    # The request.
    "option_invalid": _BAD_REQUEST,
    "language_unknown": _BAD_REQUEST,
    "language_unsupported": _BAD_REQUEST,
    "prompt_too_long": _BAD_REQUEST,
    # The model: only the operator can fix it.
    "model_invalid": _MODEL_BROKEN,
    "model_missing": _MODEL_BROKEN,
    "model_incomplete": _MODEL_BROKEN,
    "aligner_missing": _MODEL_BROKEN,
    "checkpoint_mismatch": _MODEL_BROKEN,
    "download_failed": _MODEL_BROKEN,
    # The speakers: the message names what is missing; a child that died is replaced.
    "speakers_error": Rule(503, retry_after_seconds=5, should_retry=False),
    "speakers_unavailable": _BAD_REQUEST,
    "speakers_failed": Rule(503, retry_after_seconds=5, should_retry=False),
    # The process. Work of a connected client is cancelled only while the server stops.
    "cancelled": Rule(503, retry_after_seconds=5),
    "engine_crashed": Rule(503, retry_after_seconds=1),
    "engine_unavailable": Rule(503, retry_after_seconds=5),
    "engine_busy": Rule(429, retry_after_seconds=5),
    # The worker is replaced, and most such faults are temporary (another program's GPU fault).
    "engine_fault": Rule(500, retry_after_seconds=1),
}
"""Status and retry advice per engine error code; a test checks that every code has one."""


class EngineResting(EngineUnavailable):
    """No worker is started before the breaker's pause is over; retry_after_seconds: None when unknown."""

    def __init__(
        self, message: str, *, parameter: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message, parameter=parameter)
        self.retry_after_seconds = retry_after_seconds


class ApiError(Exception):
    """A refusal by the front; `kind` is OpenAI's `type`, derived from the status if None."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: int | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.rule = Rule(status, retry_after_seconds, should_retry)
        self.headers = dict(headers or {})


def bad_request(code: str, message: str, param: str | None = None) -> ApiError:
    """A 400."""
    return ApiError(400, code, message, param=param)


def disk_full() -> ApiError:
    """The 507 for a recording, or its samples, without room on the disk."""
    return ApiError(
        507, "disk_full", "The server has no room on its disk for this recording.", should_retry=False
    )


def as_api_error(error: EngineError, *, recording_param: str | None = None) -> ApiError:
    """An engine error with the status of its code.

    recording_param: the field that held the recording, for errors of the recording itself.
    """
    rule = ENGINE_ERROR_RULES.get(error.code, ENGINE_ERROR_RULES["engine_error"])
    param = error.parameter or (recording_param if isinstance(error, AudioError) else None)
    retry_after_seconds = rule.retry_after_seconds
    if isinstance(error, EngineResting) and error.retry_after_seconds is not None:
        retry_after_seconds = error.retry_after_seconds
    return ApiError(
        rule.status,
        error.code,
        error.message,
        param=param,
        retry_after_seconds=retry_after_seconds,
        should_retry=rule.should_retry,
    )


_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_type(status: int) -> str:
    """OpenAI's `type` for a status."""
    return _ERROR_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def error_fields(error: ApiError) -> dict[str, Any]:
    """The four fields of OpenAI's error object."""
    return {
        "message": error.message,
        "type": error_type(error.rule.status),
        "param": error.param,
        "code": error.code,
    }


def error_response(error: ApiError) -> JSONResponse:
    """The answer for an error; the request id is added by the outermost middleware."""
    headers = {name.lower(): value for name, value in error.headers.items()}
    retry_after_seconds = error.rule.retry_after_seconds
    if retry_after_seconds is None and error.rule.status in (429, 503) and "retry-after" not in headers:
        retry_after_seconds = DEFAULT_RETRY_AFTER_SECONDS
    if retry_after_seconds is not None:
        seconds = min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
        headers["retry-after"] = str(seconds)
        headers["retry-after-ms"] = str(seconds * 1000)
    if error.rule.should_retry is not None:
        headers["x-should-retry"] = "true" if error.rule.should_retry else "false"
    return JSONResponse({"error": error_fields(error)}, status_code=error.rule.status, headers=headers)


_HTTP_CODES = {
    400: "bad_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


def from_http_exception(error: HTTPException) -> ApiError:
    """The framework's refusals (unknown path, wrong method) in the same shape, headers kept."""
    message = str(error.detail)
    if error.status_code == 404 and message == "Not Found":
        message = "No such address here. See /v1/models and /v1/audio/transcriptions."
    code = _HTTP_CODES.get(error.status_code, "server_error" if error.status_code >= 500 else "bad_request")
    return ApiError(error.status_code, code, message, headers=error.headers)


def install_error_handlers(app: FastAPI, routes: Sequence[BaseRoute] = ()) -> None:
    """Answer every failure of every route in the one shape. routes: all of them, for what a wrong method is told."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        request.state.error_code = error.code
        return error_response(error)

    async def on_engine_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, EngineError)
        # Jobs fail later and elsewhere: recordings of these requests were sent as `file`.
        refusal = as_api_error(error, recording_param="file")
        if refusal.rule.status >= 500:
            log_event(logger, logging.WARNING, "engine_error", code=error.code, message=error.message)
        return await on_api_error(request, refusal)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            # The framework names the methods of the first route of an address, which may have several.
            of_address = [one for one in routes if one.matches(request.scope)[0] is not Match.NONE]
            methods = {name for one in of_address if isinstance(one, Route) for name in one.methods or ()}
            error.headers = {"allow": ", ".join(sorted(methods))}
        return await on_api_error(request, from_http_exception(error))

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        refusal = bad_request("invalid_parameter", f"{where or 'request'}: {first['msg']}.", where or None)
        return await on_api_error(request, refusal)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(EngineError, on_engine_error)
    app.add_exception_handler(HTTPException, on_http_exception)
