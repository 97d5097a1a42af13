"""The connection behind a request: a body that is left unread, and a client that leaves before its answer.

A refusal comes before the body is read (401, 413) or in the middle of it. Left open, the connection would read
everything that the client still sends; closed at once, it would be reset, and many clients, which read the answer only
when they have sent everything, would report the reset instead. So the answer is sent whole, a bounded part of what
follows is discarded, and then the connection is closed. Work ends when its client disconnects or its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scribewire.server.http.errors import ApiError
from scribewire.server.http.protocol import OVER_CAPACITY

Result = TypeVar("Result")

LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20


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
