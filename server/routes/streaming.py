"""stream=true: one transcription as server-sent events.

    data: {"type": "transcript.text.delta", "delta": ...}     continues the text sent before
    data: {"type": "transcript.text.segment", ...}            with its speaker, after its delta (diarized_json only)
    data: {"type": "transcript.text.done", "text": ...}       the last event of a successful transcription,
    data: [DONE]                                              and what follows it
    data: {"error": {...}}                                    the last event of a failed one
    : keep-alive                                              a comment, while there is no event

Each type is its event's name too, for clients that read names alone; an error has none, as SDKs find it by its field.
Speakers are known at the end only, so that the text of diarized_json comes then, a delta for each segment.

The answer begins with the first text, with the end of the work, or after a short wait, so that an immediate failure (a
recording that cannot be transcoded, a queue that is full) has an ordinary HTTP status. A stream never ends without
notice: its last event is `done` or `error`, or its connection breaks. Joined, the deltas are always the text of `done`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.errors import EngineError
from scribewire.engine.protocol.messages import Completed, TextDelta
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.server.context import context_of
from scribewire.server.http.errors import ApiError, as_api_error, error_fields
from scribewire.server.http.request_scope import took_too_long, while_connected
from scribewire.server.observability.logs import log_event
from scribewire.server.routes.documents import (
    DiarizedSegment,
    answer_headers,
    logprobs_of,
    transcript_logprobs,
    transcription,
)
from scribewire.server.transcription.sharing import SharedEvents

STALLED_CLIENT_SECONDS = 30.0
"""A client that reads nothing for this time is treated as disconnected."""

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
UNSETTLED_WARNING = (
    "the transcript was settled differently after its text was streamed; ask again without stream for it"
)

logger = logging.getLogger("scribewire.streams")


class EventStream(Response):
    """A response of server-sent events; a client that does not take one in time is treated as disconnected."""

    def __init__(
        self,
        request: Request,
        headers: Mapping[str, str],
        *,
        stalled_client_seconds: float = STALLED_CLIENT_SECONDS,
    ) -> None:
        # As in StreamingResponse: no body is set, so no length is sent.
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.background = None
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})  # nginx's
        self._request = request
        self._stalled_client_seconds = stalled_client_seconds
        self._is_begun = False

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._is_begun = True

    async def _send(self, send: Send, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._stalled_client_seconds):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise ClientDisconnect() from None

    async def _finish(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class TranscriptStream(EventStream):
    """A response that streams a transcription's text, and leaves it when the client disconnects."""

    def __init__(
        self,
        request: Request,
        events: SharedEvents,
        info: ModelInfo,
        *,
        held: AbstractAsyncContextManager[Any],
        more_headers: Mapping[str, str],
        notices: tuple[str, ...] = (),
        wants_logprobs: bool,
        wants_segments: bool,
        timeout_seconds: float,
        first_wait_seconds: float,
        keep_alive_seconds: float,
        stalled_client_seconds: float = STALLED_CLIENT_SECONDS,
    ) -> None:
        """Take over `held`, which is closed when the stream is over.

        events: taken as fast as the client takes the answer; what it has not taken is kept once for all who share them.
        notices: warnings besides the transcript's own.
        first_wait_seconds: longest wait of the status for the first text.
        """
        headers = {**answer_headers(info, notices), **more_headers}
        super().__init__(request, headers, stalled_client_seconds=stalled_client_seconds)
        self._events = events
        self._info = info
        self._held = held
        self._notices = notices
        self._wants_logprobs = wants_logprobs
        self._wants_segments = wants_segments
        self._timeout_seconds = timeout_seconds
        self._first_wait_seconds = first_wait_seconds
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; raises errors from before its first byte, for the ordinary error answers."""
        async with self._held:
            try:
                await while_connected(self._request, self._run(send), timeout_seconds=None)
            except ClientDisconnect:
                if not self._is_begun:
                    raise
                self._request.state.client_gone = True

    async def _run(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._send_events(send)
        except ClientDisconnect:
            raise
        except asyncio.CancelledError:
            # The client disconnected, or the server stops; a disconnected client receives nothing.
            if self._is_begun:
                await self._fail(send, ApiError(503, "server_stopping", "The server is stopping."))
            raise
        except TimeoutError:
            await self._fail(send, took_too_long(self._timeout_seconds))
        except EngineError as error:
            await self._fail(send, as_api_error(error, recording_param="file"))
        except ApiError as error:
            await self._fail(send, error)
        except Exception:
            if not self._is_begun:
                raise
            logger.exception("internal_error")
            request_id = self._request.state.request_id
            message = f"The server failed; its log has more under {request_id}."
            await self._fail(send, ApiError(500, "internal_error", message))

    async def _send_events(self, send: Send) -> None:
        # A failure by now is raised while its status can still be sent.
        event = await self._next(self._first_wait_seconds)
        await self._begin(send)
        sent = ""
        sent_logprobs: list[TokenLogprob] = []
        while not isinstance(event, Completed):
            if event is None or self._wants_segments:
                await self._send(send, KEEP_ALIVE)
            else:
                sent += event.delta
                sent_logprobs += event.logprobs
                await self._send_delta(send, event.delta, event.logprobs)
            event = await self._next(self._keep_alive_seconds)
        told = event.transcript.warnings + self._notices
        transcript = dataclasses.replace(event.transcript, warnings=told)
        context_of(self._request).metrics.note_transcript(
            "request", transcript, is_demo=self._info.is_demo, request_id=self._request.state.request_id
        )
        if self._wants_segments:
            for delta, segment in by_segment(transcript):
                body = DiarizedSegment.model_validate(segment)
                await self._send_delta(send, delta, segment_id=body.id)
                await self._send(send, _event(body.values()))
                sent += delta
        if transcript.text.startswith(sent):
            # All of the text where it was ready at once.
            rest = transcript_logprobs(transcript)[len(sent_logprobs) :]
            await self._send_delta(send, transcript.text[len(sent) :], rest)
            sent = transcript.text
            sent_logprobs += rest
        await self._send(send, _event(self._done(transcript, sent, sent_logprobs)) + DONE)
        await self._finish(send)

    async def _next(self, seconds: float) -> TextDelta | Completed | None:
        """The next text or the end; None after so much silence."""
        patience = asyncio.timeout(seconds)
        try:
            async with patience:
                async for event in self._events:
                    if isinstance(event, TextDelta | Completed):
                        return event
        except TimeoutError:
            if not patience.expired():
                raise
            return None
        raise RuntimeError("a transcription ended without a transcript")

    def _done(self, transcript: Transcript, sent: str, sent_logprobs: list[TokenLogprob]) -> dict[str, Any]:
        body = {"type": "transcript.text.done", **transcription(transcript, self._info).values()}
        if self._wants_logprobs:
            body["logprobs"] = [one.values() for one in logprobs_of(sent_logprobs)]
        if sent != transcript.text:
            # A fault of the server. The sent text stays, with a warning that the final text differs.
            log_event(logger, logging.ERROR, "stream_differs", request_id=self._request.state.request_id)
            body["text"] = sent
            body["warnings"] = [*transcript.warnings, UNSETTLED_WARNING]
        return body

    async def _send_delta(
        self,
        send: Send,
        delta: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        segment_id: str | None = None,
    ) -> None:
        body: dict[str, Any] = {"type": "transcript.text.delta", "delta": delta}
        if segment_id is not None:
            body["segment_id"] = segment_id
        if self._wants_logprobs:
            body["logprobs"] = [one.values() for one in logprobs_of(logprobs)]
        if delta or body.get("logprobs"):
            await self._send(send, _event(body))

    async def _fail(self, send: Send, error: ApiError) -> None:
        """Raise an error before the first byte, for its status; send it as the last event afterwards."""
        if not self._is_begun:
            raise error
        self._request.state.error_code = error.code
        await self._send(send, _event({"error": error_fields(error)}))
        await self._finish(send)


def by_segment(transcript: Transcript) -> Iterator[tuple[str, Segment]]:
    """Each segment with its part of the text; the parts, joined, are the text where there is a segment."""
    text, start = transcript.text, 0
    for number, segment in enumerate(transcript.segments, start=1):
        said = segment.text.strip()
        found = text.find(said, start)
        end = start if found < 0 else found + len(said)
        if number == len(transcript.segments):
            end = len(text)
        yield text[start:end], segment
        start = end


def _event(body: dict[str, Any]) -> bytes:
    name = f"event: {body['type']}\n" if "type" in body else ""
    # ASCII only: some clients end lines at U+2028 and similar characters, which JSON allows.
    return f"{name}data: {json.dumps(body, separators=(',', ':'))}\n\n".encode("ascii")
