"""The outermost middleware: a request id on every answer, one log line per request, and a catch-all for exceptions.

Every exception that escapes the application is logged once and answered 500 in the OpenAI shape, and a request that is
cut off because the server stops is answered 503.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scribewire.server.http.errors import REQUEST_ID_HEADER, ApiError, error_response
from scribewire.server.observability.logs import log_event
from scribewire.server.observability.metrics import UNMATCHED_ROUTE, Metrics

CLIENT_GONE_STATUS = 499
"""Written to the log when the client disconnected before its answer; never sent."""

logger = logging.getLogger("scribewire.requests")

_JOB_ID = re.compile(r"job_[0-9a-f]{32}")


def new_request_id() -> str:
    """A new id for one request, or for a connection that ended before its first request."""
    return "req_" + secrets.token_hex(12)


def route_of(scope: Scope) -> str:
    """The route of a request, as it was registered."""
    return getattr(scope.get("route"), "path_format", UNMATCHED_ROUTE)


def _job_of(scope: Scope) -> str | None:
    """The job of a request: in its path, or made by it."""
    named = scope["state"].get("job_id") or scope.get("path_params", {}).get("job_id", "")
    return named if _JOB_ID.fullmatch(named) else None


class RequestScope:
    """ASGI middleware; others may set `request.state.key_id`, `.job_id`, `.error_code` and `.client_gone`."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = new_request_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status: int | None = None
        self._metrics.begin_request()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (REQUEST_ID_HEADER.encode(), request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server is stopping and its drain time is over; this task is uvicorn's own and has no waiter.
            state["error_code"] = "server_stopping"
            if status is None:
                stopping = ApiError(503, "server_stopping", "The server is stopping.", retry_after_seconds=5)
                await error_response(stopping)(scope, receive, send_with_id)
        except Exception:
            state["error_code"] = "internal_error"
            logger.exception("internal_error")
            if status is not None:
                raise  # half an answer was sent; only a broken connection shows that it is incomplete
            failure = ApiError(
                500,
                "internal_error",
                f"The server failed; its log has more under {request_id}.",
                should_retry=False,
            )
            await error_response(failure)(scope, receive, send_with_id)
        finally:
            is_gone = state.get("client_gone", False) or status is None
            seconds = time.monotonic() - started
            self._metrics.end_request(
                route_of(scope), CLIENT_GONE_STATUS if is_gone or status is None else status, seconds
            )
            log_event(
                logger,
                logging.DEBUG if scope["path"].startswith("/health") else logging.INFO,
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=CLIENT_GONE_STATUS if is_gone else status,
                milliseconds=round(seconds * 1000, 1),
                key_id=state.get("key_id"),
                job_id=_job_of(scope),
                error=state.get("error_code"),
            )
