"""A loopback proxy that fails in a chosen way, so that a real client's retries can be watched.

An address is `/FAULT/TOKEN/v1/...`; the fault is one of FAULTS, the token keeps one check's attempts apart from
another's. Failures are the server's own: status, body and headers are made by `scribewire.server.http.errors`, so that
what is tried here is what the server would say. `GET /FAULT/TOKEN/attempts` lists the requests seen. It forwards to one
server only and listens on the loopback address only.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from scribewire.server.http.errors import REQUEST_ID_HEADER, ApiError, error_response

PATIENCE_SECONDS = 120.0

_UNAVAILABLE = ApiError(503, "engine_unavailable", "The engine is starting.", retry_after_seconds=1)
_BUSY = ApiError(429, "engine_busy", "Too many recordings wait.", retry_after_seconds=1)
_BROKEN = ApiError(503, "model_invalid", "The model cannot be used.", should_retry=False)
_RETRY_WANTED = ApiError(400, "bad_request", "Once more, please.", should_retry=True)

FAULTS: dict[str, tuple[ApiError | None, bool]] = {
    # name: what is answered instead (None: nothing at all), and whether for good or only the first time
    "unavailable-once": (_UNAVAILABLE, False),
    "busy-once": (_BUSY, False),
    "retry-wanted-once": (_RETRY_WANTED, False),
    "broken-for-good": (_BROKEN, True),
    "answer-lost-once": (None, False),
    "watch": (None, False),
}
_ADDRESS = re.compile(r"/(?P<fault>[a-z-]+)/(?P<token>[\w.-]+)/(?P<rest>v1/.*|attempts)")
_PART_NAME = re.compile(rb'Content-Disposition: form-data; name="([^"]*)"', re.IGNORECASE)
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as the client sent it. at: seconds on a clock that only rises; status 0: connection cut."""

    at: float
    method: str
    path: str
    content_length: str | None
    transfer_encoding: str | None
    part_names: tuple[str, ...]
    body_bytes: int
    status: int


class FaultProxy:
    """Runs in threads of this process while used as a context manager."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_for(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE_SECONDS

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the attempts are the log."""

        def _handle(self) -> None:
            self.close_connection = True
            match = _ADDRESS.fullmatch(self.path)
            if match is None or match["fault"] not in FAULTS:
                self.send_error(404)
                return
            seen = proxy.attempts[f"{match['fault']}/{match['token']}"]
            if match["rest"] == "attempts":
                self._answer(
                    200, [("content-type", "application/json")], json.dumps([asdict(a) for a in seen])
                )
                return
            at, body = time.monotonic(), self._body()
            failure, for_good = FAULTS[match["fault"]]
            is_due = for_good or not seen
            if is_due and failure is not None:
                seen.append(self._attempt(at, body, failure.rule.status))
                refusal = error_response(failure)
                headers = [(k, v) for k, v in refusal.headers.items() if k not in _HOP_BY_HOP]
                headers.append((REQUEST_ID_HEADER, "req_" + secrets.token_hex(12)))
                self._answer(refusal.status_code, headers, bytes(refusal.body).decode())
                return
            self._forward("/" + match["rest"], at, body, seen, is_lost=is_due and "lost" in match["fault"])

        def _forward(self, path: str, at: float, body: bytes, seen: list[Attempt], *, is_lost: bool) -> None:
            upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream_port, timeout=PATIENCE_SECONDS)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
                upstream.request(self.command, path, body=body, headers=headers)
                answer = upstream.getresponse()
                # Noted before the answer is sent, so that a client that has the answer finds the note.
                seen.append(self._attempt(at, body, 0 if is_lost else answer.status))
                if is_lost:
                    answer.read()
                    return
                kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP]
                self._start(answer.status, kept)
                while piece := answer.read1(1 << 16):
                    self.wfile.write(piece)
                    self.wfile.flush()
            finally:
                upstream.close()

        def _attempt(self, at: float, body: bytes, status: int) -> Attempt:
            return Attempt(
                at=at,
                method=self.command,
                path=self.path,
                content_length=self.headers.get("content-length"),
                transfer_encoding=self.headers.get("transfer-encoding"),
                part_names=tuple(name.decode() for name in _PART_NAME.findall(body)),
                body_bytes=len(body),
                status=status,
            )

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("transfer-encoding", ""):
                return self.rfile.read(int(self.headers.get("content-length", "0")))
            pieces = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return b"".join(pieces)

        def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()

        def _answer(self, status: int, headers: list[tuple[str, str]], text: str) -> None:
            self._start(status, headers)
            self.wfile.write(text.encode())

    return Handler
