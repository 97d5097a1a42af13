"""A job's log as server-sent events: from any event on, live, until the job ends.

    id: 3
    event: partial        queued, progress, partial, done, failed or cancelled
    data: {...}
    : keep-alive          a comment, while there is no event

A client that lost its connection sends the last id it received as Last-Event-ID and misses nothing. `queued` after
other events means that the job, and with it its text, begins again. When the server stops, the stream ends at once,
whatever the job's state; it asks browsers to reconnect in a few seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from scribewire.server.http.request_scope import while_connected
from scribewire.server.jobs.job import JobEvent
from scribewire.server.routes.job_bodies import event_data
from scribewire.server.routes.streaming import KEEP_ALIVE, EventStream

COME_BACK = b": the server is stopping\nretry: 3000\n\n"
"""`retry` tells browsers' EventSource after how many milliseconds to connect again."""


class JobEventStream(EventStream):
    """A response that sends a log to its end, or until the client disconnects; read as fast as the client takes it."""

    def __init__(
        self,
        request: Request,
        events: AsyncIterator[JobEvent],
        *,
        held: AbstractContextManager[None],
        stopping: asyncio.Event,
        keep_alive_seconds: float,
    ) -> None:
        """held: entered while it lasts. stopping: set when the server stops. keep_alive_seconds: longest silence."""
        super().__init__(request, {})
        self._events = events
        self._held = held
        self._stopping = stopping
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the log; a client that disconnects ends it."""
        with self._held:
            try:
                await while_connected(self._request, self._send_log(send), timeout_seconds=None)
            except ClientDisconnect:
                self._request.state.client_gone = True

    async def _send_log(self, send: Send) -> None:
        await self._begin(send)
        if self._request.method == "HEAD":
            await self._finish(send)
            return
        # Tasks of their own: an iterator's wait must not be cancelled for a comment.
        coming = asyncio.ensure_future(anext(self._events, None))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                await asyncio.wait(
                    {coming, stopping},
                    timeout=self._keep_alive_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if coming.done():
                    if (event := coming.result()) is None:
                        break
                    await self._send(send, as_lines(event))
                    coming = asyncio.ensure_future(anext(self._events, None))
                elif stopping.done():
                    await self._send(send, COME_BACK)
                    break
                else:
                    await self._send(send, KEEP_ALIVE)
            await self._finish(send)
        finally:
            coming.cancel()
            stopping.cancel()
            await asyncio.gather(coming, stopping, return_exceptions=True)


def as_lines(event: JobEvent) -> bytes:
    """One event in the wire format; ASCII, because some clients end lines at U+2028 and similar characters."""
    data = json.dumps(event_data(event), separators=(",", ":"))
    return f"id: {event.event_id}\nevent: {event.kind}\ndata: {data}\n\n".encode("ascii")
