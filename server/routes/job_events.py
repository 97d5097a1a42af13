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

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from scribewire.server.http.connection import while_connected
from scribewire.server.jobs.job import JobEvent
from scribewire.server.routes.job_bodies import event_body
from scribewire.server.routes.streaming import KEEP_ALIVE, STALLED_CLIENT_SECONDS

COME_BACK = b": the server is stopping\nretry: 3000\n\n"
"""`retry` tells browsers' EventSource after how many milliseconds to connect again."""


class JobEventStream(Response):
    """A response that sends a log to its end, or until the client disconnects."""

    def __init__(
        self,
        request: Request,
        events: AsyncIterator[JobEvent],
        *,
        stopping: asyncio.Event,
        keep_alive_seconds: float,
    ) -> None:
        """stopping: set when the server stops. keep_alive_seconds: longest silence of the stream."""
        # As in StreamingResponse: no body is set, so no length is sent.
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})  # nginx's
        self._request = request
        self._events = events
        self._stopping = stopping
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the log; a client that disconnects ends it."""
        try:
            await while_connected(self._request, self._send_log(send), timeout_seconds=None)
        except ClientDisconnect:
            self._request.state.client_gone = True

    async def _send_log(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # A separate task: an iterator's wait must not be cancelled for a comment.
        queue: asyncio.Queue[JobEvent | None] = asyncio.Queue()
        reading = asyncio.create_task(self._enqueue(queue))
        stopping = asyncio.create_task(self._stopping.wait())
        for end in (reading, stopping):
            end.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while True:
                try:
                    async with asyncio.timeout(self._keep_alive_seconds):
                        event = await queue.get()
                except TimeoutError:
                    await self._send(send, KEEP_ALIVE)
                    continue
                if event is None:
                    break
                await self._send(send, as_lines(event))
            if reading.done():
                reading.result()
            else:
                await self._send(send, COME_BACK)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reading.cancel()
            stopping.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)

    async def _enqueue(self, queue: asyncio.Queue[JobEvent | None]) -> None:
        async for event in self._events:
            queue.put_nowait(event)

    async def _send(self, send: Send, data: bytes) -> None:
        try:
            async with asyncio.timeout(STALLED_CLIENT_SECONDS):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise ClientDisconnect() from None


def as_lines(event: JobEvent) -> bytes:
    """One event in the wire format; ASCII, because some clients end lines at U+2028 and similar characters."""
    data = json.dumps(event_body(event), separators=(",", ":"))
    return f"id: {event.event_id}\nevent: {event.kind}\ndata: {data}\n\n".encode("ascii")
