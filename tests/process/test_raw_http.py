"""Requests that no client library sends: every refusal is a 4xx with the one error shape, and the server lives on."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.server.access.keys import KeyStore
from tests.fakes.media_files import recording
from tests.fakes.raw_http import (
    BOUNDARY,
    FORM_TYPE,
    TRANSCRIPTIONS,
    ask,
    error_of,
    form,
    post_request,
    request,
)
from tests.fakes.served import Served
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.process

MEBIBYTE = 1 << 20
BODY = form(recording("wav-ulaw"), model="whisper-1")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("raw")) as running:
        yield running
        assert running.failures_in_log() == []
        assert running.leftovers() == []


def alive(served: Served) -> None:
    answer = ask(served.port, post_request(served.port, recording("wav-ulaw"), model="whisper-1"))
    assert answer is not None
    assert answer.status == 200


def head(served: Served, *lines: str, start: str = f"POST {TRANSCRIPTIONS} HTTP/1.1") -> bytes:
    return ("\r\n".join([start, *lines]) + "\r\n\r\n").encode("latin-1")


def host(served: Served) -> str:
    return f"Host: 127.0.0.1:{served.port}"


LENGTH = f"Content-Length: {len(BODY)}"
BAD_FRAMINGS: dict[str, tuple[tuple[str, ...], bytes]] = {
    "content-length with transfer-encoding": (
        (FORM_TYPE, LENGTH, "Transfer-Encoding: chunked"),
        b"0\r\n\r\n",
    ),
    "transfer-encoding with content-length 0": (
        (FORM_TYPE, "Transfer-Encoding: chunked", "Content-Length: 0"),
        b"0\r\n\r\n",
    ),
    "two lengths that differ": ((FORM_TYPE, LENGTH, "Content-Length: 5"), BODY),
    "a list of lengths": ((FORM_TYPE, f"Content-Length: {len(BODY)}, 5"), BODY),
    "negative length": ((FORM_TYPE, "Content-Length: -1"), BODY),
    "length with a sign": ((FORM_TYPE, f"Content-Length: +{len(BODY)}"), BODY),
    "length that is no number": ((FORM_TYPE, "Content-Length: many"), BODY),
    "length of 2^64": ((FORM_TYPE, f"Content-Length: {1 << 64}"), b""),
    "length of 100 digits": ((FORM_TYPE, "Content-Length: " + "9" * 100), b""),
    "unknown transfer-encoding": ((FORM_TYPE, "Transfer-Encoding: gzip, chunked"), b"0\r\n\r\n"),
    "transfer-encoding twice": (
        (FORM_TYPE, "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        b"0\r\n\r\n",
    ),
    "transfer-encoding with a tab": ((FORM_TYPE, "Transfer-Encoding:\tchunked\x0b"), b"0\r\n\r\n"),
    "space before the colon": ((FORM_TYPE, "Transfer-Encoding : chunked"), b"0\r\n\r\n"),
    "chunk size that is no number": ((FORM_TYPE, "Transfer-Encoding: chunked"), b"zz\r\nabc\r\n0\r\n\r\n"),
    "negative chunk size": ((FORM_TYPE, "Transfer-Encoding: chunked"), b"-5\r\nabc\r\n0\r\n\r\n"),
    "chunk size of 40 digits": ((FORM_TYPE, "Transfer-Encoding: chunked"), b"f" * 40 + b"\r\nabc\r\n"),
    "chunk longer than it says": ((FORM_TYPE, "Transfer-Encoding: chunked"), b"2\r\nabcdef\r\n0\r\n\r\n"),
    "form cut off": ((FORM_TYPE, f"Content-Length: {len(BODY) - 20}"), BODY[:-20]),
    "another boundary": (("Content-Type: multipart/form-data; boundary=other", LENGTH), BODY),
    "no boundary": (("Content-Type: multipart/form-data", LENGTH), BODY),
    "boundary of 10,000 characters": (
        ("Content-Type: multipart/form-data; boundary=" + "b" * 10_000, LENGTH),
        BODY,
    ),
    "no type": ((LENGTH,), BODY),
    "a body of zeros": ((FORM_TYPE, "Content-Length: 5000"), bytes(5000)),
    "part headers of a mebibyte": (
        (FORM_TYPE, f"Content-Length: {len(BOUNDARY) + MEBIBYTE + 10}"),
        f"--{BOUNDARY}\r\nX: ".encode() + b"x" * MEBIBYTE + b"\r\n\r\n",
    ),
    "content encoding": ((FORM_TYPE, LENGTH, "Content-Encoding: gzip"), b"\x1f\x8b" + BODY[2:]),
}


@pytest.mark.parametrize("kind", BAD_FRAMINGS)
def test_body_that_is_framed_wrongly_is_refused_in_the_error_shape(served: Served, kind: str):
    lines, body = BAD_FRAMINGS[kind]
    answer = ask(served.port, head(served, host(served), *lines) + body)
    error = error_of(answer)
    assert answer is not None
    assert 400 <= answer.status < 500, (answer, error)
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"].startswith("req_")
    alive(served)


def test_two_hosts_are_refused(served: Served):
    for second in (host(served), "Host: evil.example", "Host:"):
        error_of(
            answer := ask(served.port, head(served, host(served), second, start="GET /v1/models HTTP/1.1"))
        )
        assert answer is not None
        assert answer.status == 400
    alive(served)


@pytest.mark.parametrize(
    ("line", "status"),
    [("Host: evil.example", 403), ("Host: 127.0.0.1.evil.example", 403), ("Host: localhost@evil.example", 403),
     ("Host:", 403), ("X-No: host", 400)],
)  # fmt: skip
def test_foreign_or_missing_host_is_refused(served: Served, line: str, status: int):
    answer = ask(served.port, head(served, line, start="GET /v1/models HTTP/1.1"))
    error_of(answer)
    assert answer is not None
    assert answer.status == status


@pytest.mark.parametrize("kind", ["one header", "many headers", "the path", "the method", "without an end"])
def test_headers_of_a_mebibyte_are_refused(served: Served, kind: str):
    contents = {
        "one header": head(served, host(served), "X: " + "a" * MEBIBYTE, start="GET /v1/models HTTP/1.1"),
        "many headers": head(
            served, host(served), *(f"X-{n}: {n}" for n in range(80_000)), start="GET /v1/models HTTP/1.1"
        ),
        "the path": head(served, host(served), start=f"GET /{'a' * MEBIBYTE} HTTP/1.1"),
        "the method": head(served, host(served), start=f"{'A' * MEBIBYTE} / HTTP/1.1"),
        "without an end": f"GET /v1/models HTTP/1.1\r\n{host(served)}\r\nX: ".encode() + b"a" * MEBIBYTE,
    }
    before = served.resident_bytes()
    answer = ask(served.port, contents[kind])
    error_of(answer)
    assert answer is not None
    assert answer.status in (400, 431)
    assert served.resident_bytes() - before < 32 * MEBIBYTE
    alive(served)


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS hello
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\x00\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /\x80\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00" * 10_000 + b"\r\n\r\n",
    ],
    ids=["tls", "0.9", "9.9", "http/2", "line ends", "zero", "bare CR", "folded", "path", "zeros"],
)
def test_what_is_not_http_is_refused_in_the_error_shape(served: Served, content: bytes):
    answer = ask(served.port, content)
    error_of(answer)
    assert answer is not None
    assert 400 <= answer.status < 500
    alive(served)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/../../etc/passwd"), ("GET", "/%2e%2e/%2e%2e/etc/passwd"), ("GET", "//etc/passwd"),
        ("GET", "/v1/models/../../etc/passwd"), ("GET", "/v1/models/%00"), ("GET", "/jobs/../../x"),
        ("GET", "/jobs/%2e%2e%2fkeys.json"), ("GET", "/jobs/" + "a" * 5_000), ("GET", TRANSCRIPTIONS),
        ("DELETE", TRANSCRIPTIONS), ("TRACE", "/v1/models"), ("CONNECT", "evil.example:443"), ("FROB", "/v1/models"),
        ("POST", "/v1/models"), ("POST", "/health/live"), ("GET", "/docs"), ("PUT", "/transcribe"),
        ("POST", "/v1/audio/translations"), ("GET", "/jobs/\u0131"[:6] + "%ff%fe"),
    ],
)  # fmt: skip
def test_odd_paths_and_methods_are_refused_in_the_error_shape(served: Served, method: str, path: str):
    answer = ask(served.port, request(served.port, "Connection: close", method=method, path=path))
    error = error_of(answer)
    assert answer is not None
    assert 400 <= answer.status < 500, (answer, error)
    assert "root:" not in error["message"]


def test_clients_that_send_nonsense_and_are_gone_cause_no_failure_inside(served: Served):
    reset = struct.pack("ii", 1, 0)
    nonsense = [
        lines_and_body for name, lines_and_body in BAD_FRAMINGS.items() if "chunk" in name or "length" in name
    ]
    for number in range(100):
        lines, body = nonsense[number % len(nonsense)]
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(head(served, host(served), *lines) + body)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    for _ in range(20):  # a request, then nonsense, from a client that leaves with the first answer
        error_of(ask(served.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    alive(served)
    assert wait_until(lambda: not served.leftovers())
    assert served.failures_in_log() == []


def test_every_status_of_a_refusal_has_the_shape(tmp_path: Path):
    """One of each that a caller can bring about: 400, 401, 404, 405, 408, 413, 429 and 431."""
    _, secret = KeyStore(tmp_path / "data").create("ann")
    key = f"Authorization: Bearer {secret}"
    settings = {"header_timeout_seconds": 1.0, "upload_idle_seconds": 1.0, "key_requests_per_minute": 3}
    with Served(tmp_path / "data", **settings) as running:
        port = running.port
        asked = {
            401: post_request(port, b"x"),
            404: request(port, key, "Connection: close", method="GET", path="/nowhere"),
            405: request(port, key, "Connection: close", method="DELETE", path=TRANSCRIPTIONS),
            413: request(port, key, FORM_TYPE, f"Content-Length: {1 << 40}"),
            431: request(port, key, "X: " + "a" * MEBIBYTE, method="GET", path="/v1/models"),
            400: post_request(port, b"no recording", key),
            408: request(port, key, FORM_TYPE, "Content-Length: 1000", body=BODY[:100]),
        }
        seen = {}
        for status, content in asked.items():
            answer = ask(port, content)
            error_of(answer)
            assert answer is not None
            assert answer.status == status, (status, answer)
            seen[status] = answer
        assert seen[401].headers["www-authenticate"] == "Bearer"
        while (
            answer := ask(port, post_request(port, b"no recording", key))
        ) is not None and answer.status == 400:
            pass
        assert answer is not None
        assert answer.status == 429
        error_of(answer)
        assert int(answer.headers["retry-after"]) > 0
        assert running.failures_in_log() == []
        assert running.leftovers() == []
