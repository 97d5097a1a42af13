"""uvicorn's HTTP/1.1 with additional limits: on connections, on headers, and on waiting times.

uvicorn keeps a connection that never finishes its headers for ever, lets `limit_concurrency` hide the health page,
and answers malformed requests in plain text. Here headers have a time and a size limit, a client that does not read its
answer is disconnected, a vanished one is noticed, and every refusal has the one error shape. A chunk costs the same
time whatever its size, so a body in tiny ones is parsed by a few in each turn of the event loop.

A few connections over the cap are still accepted: they have a short time limit and may request only the health page
(`OVER_CAPACITY` in the request's state informs the gate). So an operator can check the server even at full capacity.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import h11
import uvicorn
from h11._receivebuffer import ReceiveBuffer  # what reads header lines has no public place
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from scribewire.server.http.errors import REQUEST_ID_HEADER, ApiError, error_response
from scribewire.server.observability.logs import log_event

MAX_HEADER_BYTES: Final = 64 << 10
MAX_HEADER_LINES: Final = 256
"""Limit on headers, and on trailers after a chunked body; parsing and every look-up cost time for each."""

MAX_REQUEST_LINE_BYTES: Final = 8 << 10
"""Limit on method and target, whose parts are unescaped one by one."""

CHUNKS_PER_TURN: Final = 8
"""Pieces of a connection's body that are parsed in one turn of the event loop."""

OVER_CAPACITY: Final = "is_over_capacity"
OVER_CAPACITY_SECONDS: Final = 1.0
"""Time limit of a connection over the cap for its headers."""

LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 4 << 20
"""After a refusal: bytes that a client may still send before it is cut off and may miss the answer."""

KEEP_ALIVE_PROBES: Final = (
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPALIVE", 60),
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
)
"""Seconds, seconds, seconds, probes: a client whose machine vanished is noticed after two minutes."""

logger = logging.getLogger("scribewire.connections")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on connections, on those for the health page, and on waiting times.

    stall_seconds: how long a client may leave its answer unread once the system's buffers are full
    """

    max_connections: int
    spare_connections: int
    header_timeout_seconds: float
    stall_seconds: float = 60.0

    @property
    def kept_connections(self) -> int:
        """Number of open connections above which each is closed after its answer, so that idle ones leave a quarter."""
        return self.max_connections * 3 // 4


class GuardedConfig(uvicorn.Config):
    """uvicorn's configuration with this protocol and its limits."""

    def __init__(self, app: ASGIApp, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(app, http=GuardedProtocol, h11_max_incomplete_event_size=MAX_HEADER_BYTES, **options)
        self.limits = limits


class GuardedProtocol(H11Protocol):
    """One connection; see the module."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, GuardedConfig)
        self._limits = config.limits
        self._header_seconds = config.limits.header_timeout_seconds
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._is_over_capacity = False
        self._is_refused = False
        self._discarded_bytes = 0
        self.conn: _Connection = _Connection()
        self._next_turn: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Accept the connection if there is capacity."""
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        probe_when_idle(transport.get_extra_info("socket"))
        over = len(self.connections) - self._limits.max_connections
        if over > self._limits.spare_connections:
            self._turn_away()
            return
        if over > 0:
            self._is_over_capacity = True
            self._header_seconds = min(self._header_seconds, OVER_CAPACITY_SECONDS)
            self.app_state = {**self.app_state, OVER_CAPACITY: True}
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its timers."""
        for timer in (self._header_timer, self._stall_timer, self._linger_timer, self._next_turn):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse more of the request; after a refusal, discard a bounded part."""
        if self._is_refused:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self._request is not None and len(self.connections) > self._limits.kept_connections:
            self._request.keep_alive = False
        self._watch_headers()

    def handle_events(self) -> None:
        """Parse what has arrived, as far as this turn goes; the rest waits, and the client with it."""
        if self.flow.is_held:
            return
        self.conn.chunks_left = CHUNKS_PER_TURN
        super().handle_events()
        if self.conn.chunks_left == 0 and not self._is_refused:
            self.flow.hold()
            self._next_turn = self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self.flow.is_held = False
        self.handle_events()
        if self._request is None or len(self._request.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP; uvicorn calls this while it handles h11's error."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(headers_too_large())
            return
        why = f": {str(error)[:200]}" if isinstance(error, h11.RemoteProtocolError) else ""
        self._refuse(ApiError(400, "http_invalid", f"The request is not valid HTTP/1.1{why}."))

    def shutdown(self) -> None:
        """End the connection when its request, if any, is answered."""
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self._limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the time limit of a client that reads again."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    @property
    def _request(self) -> RequestResponseCycle | None:
        """The newest request, None before the first; uvicorn's own annotation leaves the None out."""
        return self.cycle

    def _watch_headers(self) -> None:
        """Start the time limit for headers, at the connection's start and at the first byte of every later request."""
        is_awaited = (
            not self._is_refused
            and self.conn.their_state is h11.IDLE
            and (self._request is None or bool(self.conn.trailing_data[0]))
        )
        if is_awaited and self._header_timer is None:
            self._header_timer = self.loop.call_later(self._header_seconds, self._on_headers_late)
        elif not is_awaited and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_headers_late(self) -> None:
        if self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:
            self.transport.close()  # it never sent a byte
            return
        self._refuse(
            ApiError(
                408,
                "headers_timeout",
                f"The request's headers were not whole after {self._header_seconds:g} s.",
            )
        )

    def _turn_away(self) -> None:
        self._is_refused = True
        self.transport.write(_whole_answer(too_many_connections(), new_request_id()))
        self.transport.close()

    def _refuse(self, refusal: ApiError) -> None:
        """Answer, stop listening, and close once the client has had a chance to read."""
        self._is_refused = True
        request_id = new_request_id()
        log_event(
            logger,
            logging.INFO,
            "connection_refused",
            request_id=request_id,
            status=refusal.rule.status,
            error=refusal.code,
        )
        self._unset_keepalive_if_required()
        is_answered = False
        if self._request is not None and not self._request.response_complete:
            # The request's body is invalid: its work ends as if the client had disconnected.
            is_answered = self._request.response_started
            self._request.disconnected = True
            self._request.message_event.set()
        if is_answered or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write(_whole_answer(refusal, request_id))
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closing with unread bytes would reset the connection, and the answer would be lost.
        try:
            self.transport.write_eof()
        except OSError:  # the client has disconnected already
            self.transport.abort()
            return
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)


class _Connection(h11.Connection):
    """h11's parser with a bound on the chunks that it finds in one turn, and on lines of headers."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._receive_buffer: ReceiveBuffer = _ReceiveBuffer()
        self.chunks_left = CHUNKS_PER_TURN

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event; NEED_DATA also when this turn's chunks are used up."""
        if self.chunks_left == 0:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Data):
            self.chunks_left -= 1
        return event


class _ReceiveBuffer(ReceiveBuffer):
    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines before the first empty one, None while there is none; raises LocalProtocolError for too many."""
        lines = self._data.split(b"\n", MAX_HEADER_LINES + 1)
        is_endless = len(lines) > MAX_HEADER_LINES + 1 and all(line.rstrip(b"\r") for line in lines[:-1])
        if is_endless or len(lines[0]) > MAX_REQUEST_LINE_BYTES:
            raise h11.LocalProtocolError("headers too large", error_status_hint=431)
        return super().maybe_extract_lines()


class _Flow(FlowControl):
    """uvicorn's pauses in reading, which last while a connection waits for its turn."""

    is_held = False

    def hold(self) -> None:
        """Read no more until `is_held` is False again."""
        self.is_held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless held."""
        if not self.is_held:
            super().resume_reading()


def new_request_id() -> str:
    """A new id for one request, or for a connection that ended before its first request."""
    return "req_" + secrets.token_hex(12)


def too_many_connections() -> ApiError:
    """The 503 of a connection over the cap."""
    message = "Too many connections are open; try again shortly."
    return ApiError(503, "too_many_connections", message, retry_after_seconds=2)


def headers_too_large() -> ApiError:
    """The 431, after which the connection is closed."""
    return ApiError(
        431,
        "headers_too_large",
        f"The request's headers are larger than {MAX_HEADER_BYTES >> 10} KiB, more than {MAX_HEADER_LINES}, or its "
        f"address is longer than {MAX_REQUEST_LINE_BYTES >> 10} KiB.",
        headers={"connection": "close"},
    )


def _whole_answer(refusal: ApiError, request_id: str) -> bytes:
    response = error_response(refusal)
    response.headers["connection"] = "close"
    response.headers[REQUEST_ID_HEADER] = request_id
    status = refusal.rule.status
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", b""]) + bytes(response.body)


def probe_when_idle(connection: socket.socket | None) -> None:
    """Enable TCP keep-alive, which detects clients whose machine or network vanished."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # macOS refuses options of a connection that was reset already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE_PROBES:
            if (option := getattr(socket, name, None)) is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
