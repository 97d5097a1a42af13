"""Clients that are slow, silent, malformed or too many: each is left or refused, and the others are served."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from scribewire.server.http.listening import bind
from scribewire.server.http.protocol import CHUNKS_PER_TURN, MAX_HEADER_BYTES, ConnectionLimits, GuardedConfig
from tests.fakes.front_server import front_server
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import PATIENCE_SECONDS, join, wait_until

pytestmark = pytest.mark.process

SPEECH = script(text="Hello.")
PATH = "/v1/audio/transcriptions"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("impatient"), header_timeout_seconds=0.3) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("data")) as running:
        yield running


def connect(running: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_SECONDS)


@contextmanager
def running_alone(app: ASGIApp) -> Iterator[tuple[str, int]]:
    """The address of a server of this application, with no gate or other middleware before it."""
    limits = ConnectionLimits(
        max_connections=8, spare_connections=0, header_timeout_seconds=30, stall_seconds=0.3
    )
    config = GuardedConfig(app, limits=limits, log_config=None, lifespan="off", access_log=False, ws="none")
    running = uvicorn.Server(config)
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=lambda: running.run(sockets=[listener]), daemon=True)
        thread.start()
        yield listener.getsockname()
        running.should_exit = True
        join(thread)


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while piece := connection.recv(65536):
        assert time.monotonic() < deadline, "the connection is still open"
        answer += piece
    return answer


def assert_error_answer(answer: bytes, status: int, code: str) -> None:
    """The one error shape, in an answer that no application ever saw."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("ascii").lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} "), answer
    assert "connection: close" in lines
    assert "content-type: application/json" in lines
    assert any(line.startswith("x-request-id: req_") for line in lines)
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert error["message"]
    assert f"content-length: {len(body)}" in lines


def test_connection_that_never_says_anything_is_closed(impatient: RunningServer):
    with connect(impatient) as connection:
        assert connection.recv(100) == b""


def test_headers_that_stop_half_way_are_refused_and_the_connection_closed(impatient: RunningServer):
    with connect(impatient) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: ")
        assert_error_answer(read_to_end(connection), 408, "headers_timeout")


def test_headers_that_trickle_gain_no_time_by_it(impatient: RunningServer):
    with connect(impatient) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\n")
        connection.settimeout(0.02)
        deadline = time.monotonic() + PATIENCE_SECONDS
        answer = b""
        while not answer:
            assert time.monotonic() < deadline, "the connection is still open"
            connection.sendall(b"X-A: b\r\n")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_later_requests_of_a_connection_have_the_same_time(impatient: RunningServer):
    with connect(impatient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        # Idle between two requests is no offense; half a request is. A connection that came later has been closed.
        with connect(impatient) as later:
            assert read_to_end(later) == b""
        connection.sendall(b"GET /health/live HTTP/1.1\r\n")
        assert_error_answer(read_to_end(connection), 408, "headers_timeout")


def test_request_in_hand_is_not_taken_for_a_silent_connection(impatient: RunningServer):
    assert impatient.transcribe(script(text="slow", delay_seconds=1)).json()["text"] == "slow"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "http_invalid"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "http_invalid"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "http_invalid"),
        (b"nonsense\r\n\r\n", 400, "http_invalid"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "http_invalid"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400, "http_invalid"),
        (b"GET / HTTP/one\r\nHost: a\r\n\r\n", 400, "http_invalid"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "http_invalid",
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "http_invalid"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400, "http_invalid"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431, "headers_too_large"),
        (b"GET /jobs?" + b"a&" * 5_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "headers_too_large"),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431, "headers_too_large"),
    ],
)
def test_what_is_not_http_is_refused_in_the_one_shape(
    server: RunningServer, request_bytes: bytes, status: int, code: str
):
    with connect(server) as connection:
        connection.sendall(request_bytes)
        assert_error_answer(read_to_end(connection), status, code)
    assert server.transcribe(SPEECH).status_code == 200


class OneRequest:
    """An application that reads one body and answers with its size; pieces are the sizes it came in."""

    def __init__(self) -> None:
        self.pieces: list[int] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return
        more = True
        while more:
            message = await receive()
            self.pieces.append(len(message["body"]))
            more = message["more_body"]
        size = str(sum(self.pieces)).encode()
        headers = [(b"content-length", str(len(size)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": size})


@pytest.mark.parametrize(("chunk", "count"), [(b"x", 100_000), (b"x" * 100_000, 200)])
def test_body_in_tiny_chunks_is_parsed_a_few_in_each_turn_of_the_event_loop(chunk: bytes, count: int):
    app = OneRequest()
    with running_alone(app) as address, socket.create_connection(address) as connection:
        connection.sendall(CHUNKED + (b"%x\r\n" % len(chunk) + chunk + b"\r\n") * count + b"0\r\n\r\n")
        # The next request waits in the same buffers as the end of this one.
        connection.sendall(CHUNKED[:-2] + b"Connection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        answers = read_to_end(connection).split(b"HTTP/1.1 200 ")[1:]
    assert [int(answer.rpartition(b"\r\n\r\n")[2]) for answer in answers] == [
        len(chunk) * count,
        len(chunk) * count + 1,
    ]
    assert max(app.pieces) <= CHUNKS_PER_TURN * len(chunk)


def test_client_that_leaves_while_its_chunks_wait_costs_nothing():
    app = OneRequest()
    with running_alone(app) as address:
        with socket.create_connection(address) as connection:
            connection.sendall(CHUNKED + b"1\r\nx\r\n" * 30_000)
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_headers_that_grow_without_end_are_cut_off(server: RunningServer):
    sent = 0
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        try:
            while sent < 64 << 20:
                connection.sendall(b"X-Padding: " + b"x" * 1000 + b"\r\n")
                sent += 1013
        except OSError:
            pass
    assert MAX_HEADER_BYTES - 2000 < sent < 32 << 20


def test_headers_of_60_kilobytes_are_read(server: RunningServer):
    response = server.client.get("/v1/models", headers={"x-padding": "x" * 60_000})
    assert response.status_code == 200


def test_damaged_framing_in_the_middle_of_an_upload_ends_it(server: RunningServer):
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx'
    with connect(server) as connection:
        connection.sendall(head.encode() + b"%x\r\n" % len(part) + part + b"\r\n")
        wait_until(server.leftovers)
        connection.sendall(b"no chunk size\r\n")
        assert_error_answer(read_to_end(connection), 400, "http_invalid")
    wait_until(lambda: not server.leftovers())


def test_client_that_does_not_read_its_answer_is_left():
    left = threading.Event()

    async def endless(scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        disconnect = asyncio.ensure_future(receive())
        while not disconnect.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        left.set()

    with running_alone(endless) as address, socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert left.wait(PATIENCE_SECONDS)


def test_full_house_answers_health_and_turns_everything_else_away(tmp_path: Path):
    with (
        RunningServer(tmp_path, max_connections=8, header_timeout_seconds=60) as running,
        ExitStack() as open_ones,
    ):
        running.client.close()
        running.client = httpx.Client(base_url=running.url, timeout=PATIENCE_SECONDS)
        inside = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE_SECONDS)
        inside.request("GET", "/health/live")
        assert inside.getresponse().read() == b""
        silent = [open_ones.enter_context(connect(running)) for _ in range(7)]
        wait_until(lambda: len(running._server.server_state.connections) == 8)
        # One more gets in, for the health page only, and not to stay.
        for path, start in (("/health/live", b"HTTP/1.1 200 "), ("/v1/models", b"HTTP/1.1 503 ")):
            with connect(running) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode())
                answer = read_to_end(connection)
            assert answer.startswith(start)
            wait_until(lambda: len(running._server.server_state.connections) == 8)
        assert b"too_many_connections" in answer
        assert b"retry-after: " in answer
        # Those inside are served as ever.
        inside.request("GET", "/v1/models", headers={"Host": f"127.0.0.1:{running.port}"})
        assert inside.getresponse().status == 200
        # It was not kept, as none is at a full house; another takes its place.
        wait_until(lambda: len(running._server.server_state.connections) == 7)
        silent.append(open_ones.enter_context(connect(running)))
        wait_until(lambda: len(running._server.server_state.connections) == 8)
        # Beyond the spare ones the door is shut at once.
        late = [open_ones.enter_context(connect(running)) for _ in range(40)]
        turned_away = [connection for connection in late if read_to_end(connection)]
        assert len(turned_away) >= 40 - 16
        for connection in [*silent, *late]:
            connection.close()
        wait_until(lambda: not running._server.server_state.connections)
        assert running.transcribe(SPEECH).status_code == 200
        inside.close()


def test_slow_uploads_beyond_the_descriptors_leave_the_health_page_and_nothing_else(tmp_path: Path):
    with (
        front_server(
            tmp_path,
            "fake",
            descriptors=192,
            max_concurrent_uploads=16,
            upload_idle_seconds=2.0,
            header_timeout_seconds=2.0,
        ) as server,
        ExitStack() as open_ones,
    ):
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx'
        connections = []
        for _ in range(160):
            connection = open_ones.enter_context(
                socket.create_connection((server.host, server.port), timeout=30)
            )
            connection.sendall(head.encode() + b"%x\r\n" % len(part) + part + b"\r\n")
            connections.append(connection)
        wait_until(lambda: server.leftovers() == 16)
        address = f"http://{server.host}:{server.port}"
        wait_until(lambda: is_live(address))
        assert server.leftovers() == 16, "the slow uploads had gone before health was asked for"
        assert server.process.num_fds() < 192
        # No client that is this slow stays: the server ends each connection.
        for connection in connections:
            try:
                read_to_end(connection)
            except ConnectionResetError:
                continue
        wait_until(lambda: server.leftovers() == 0)
        answer = httpx.post(f"{address}{PATH}", files={"file": SPEECH}, timeout=PATIENCE_SECONDS)
        assert answer.json()["text"] == "Hello."


def is_live(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
