"""Work that ends when its client disconnects or its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from scribewire.server.http.errors import ApiError

Result = TypeVar("Result")


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


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
