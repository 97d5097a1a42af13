"""One HTTP request around the application: its id, its log line and its figures, an unread body, a client that leaves.

Every exception that escapes the application is logged once and answered 500 in the OpenAI shape, and a request that is
cut off because the server stops is answered 503.

A refusal comes before the body is read (401, 413) or in the middle of it. Left open, the connection would read
everything that the client still sends; closed at once, it would be reset, and many clients, which read the answer only
when they have sent everything, would report the reset instead. So the answer is sent whole, a bounded part of what
follows is discarded, and then the connection is closed. Work ends when its client disconnects or its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scribewire.server.http.errors import REQUEST_ID_HEADER, ApiError, error_response
from scribewire.server.http.protocol import OVER_CAPACITY, new_request_id
from scribewire.server.observability.logs import REQUEST_EVENT, log_event
from scribewire.server.observability.metrics import UNMATCHED_ROUTE, Metrics

CLIENT_GONE_STATUS = 499
"""Written to the log when the client disconnected before its answer; never sent."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20
"""Of an unread body, discarded after the answer."""

Result = TypeVar("Result")

logger = logging.getLogger("scribewire.requests")

_JOB_ID = re.compile(r"job_[0-9a-f]{32}")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/]*)(.*)", re.IGNORECASE)
_OTHER_SERVICES = re.compile(r"/openai/(?:v1|deployments/(?P<model>[^/]+))(?=/)")


def settle_address(scope: Scope) -> None:
    """Give every spelling of an address the same path.

    A target may be a whole URL (RFC 9112, 3.2.2), whose host the gate checks as it checks Host (`state.authority`), and
    end with a slash. Groq's SDK asks at /openai/v1/, and Azure's names the model in the path (`state.deployment`).
    """
    path, state = scope["path"], scope["state"]
    if (url := _ABSOLUTE_FORM.fullmatch(scope.get("raw_path", b""))) is not None:
        state["authority"] = url[1].decode("ascii").lower()
        path = unquote(url[2].decode("ascii"))
    if (named := _OTHER_SERVICES.match(path)) is not None:
        state["deployment"] = named["model"]
        path = "/v1" + path[named.end() :]
    scope["path"] = path.rstrip("/") or "/"


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
        settle_address(scope)
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
                REQUEST_EVENT,
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=CLIENT_GONE_STATUS if is_gone else status,
                milliseconds=round(seconds * 1000, 1),
                key_id=state.get("key_id"),
                job_id=_job_of(scope),
                error=state.get("error_code"),
            )


class UnreadBody:
    """ASGI middleware: a bounded part of an unread body is discarded after the answer; see the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
            await self._app(scope, receive, send)
            return
        is_read = False
        is_closing = False

        async def watched_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            nonlocal is_closing
            if message["type"] == "http.response.start" and not is_read:
                is_closing = True
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() != b"connection"]
                await send({**message, "headers": [*kept, (b"connection", b"close")]})
                return
            if not is_closing or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            # A client that waited for 100 Continue sends nothing more; and at full capacity no connection may linger.
            if "expect" not in headers and not scope.get("state", {}).get(OVER_CAPACITY):
                await _discard(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, watched_receive, watched_send)


async def while_connected(
    request: Request, work: Coroutine[Any, Any, Result], *, timeout_seconds: float | None
) -> Result:
    """Result of the work, which is cancelled when the client disconnects or the time is over.

    The request's body must have been read to its end. timeout_seconds: None for no limit.
    raises: ClientDisconnect, ApiError 504, and the work's errors.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if watch.done():
            raise ClientDisconnect()
        raise took_too_long(timeout_seconds or 0.0)
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def took_too_long(timeout_seconds: float) -> ApiError:
    """The 504 of a request whose time is over; the same recording would take as long again."""
    return ApiError(
        504,
        "request_timeout",
        f"No transcript within {timeout_seconds:g} s (--request-timeout-seconds); "
        "submit long recordings to /transcribe instead.",
        should_retry=False,
    )


async def _discard(receive: Receive) -> None:
    discarded = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while discarded < LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                discarded += len(message.get("body", b""))
    except TimeoutError:
        return  # too slow to wait for; the answer is on its way


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
