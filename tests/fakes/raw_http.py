"""HTTP by hand, for requests that no client library would send, one at a time or a thousand at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from typing import Any

TRANSCRIPTIONS = "/v1/audio/transcriptions"
BOUNDARY = "b0undary"
FORM_TYPE = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def form(recording: bytes, *, file_name: bytes = b"a.wav", **fields: str) -> bytes:
    """A multipart body with a recording."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="'.encode()
    return b"".join(parts) + head + file_name + b'"\r\n\r\n' + recording + f"\r\n--{BOUNDARY}--\r\n".encode()


def request(
    port: int, *lines: str, body: bytes = b"", method: str = "POST", path: str = TRANSCRIPTIONS
) -> bytes:
    """A request with the usual Host, these header lines and this body; no length is added."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines])
    return f"{head}\r\n\r\n".encode("latin-1") + body


def post_request(
    port: int, recording: bytes, *lines: str, path: str = TRANSCRIPTIONS, **fields: str
) -> bytes:
    """A proper upload that asks for the connection to be closed."""
    body = form(recording, **fields)
    length = f"Content-Length: {len(body)}"
    return request(port, FORM_TYPE, length, "Connection: close", *lines, body=body, path=path)


def read_answer(connection: socket.socket) -> Answer | None:
    """One answer; None when the other side closes, or resets, without one."""
    received = b""
    try:
        while (answer := parse_answer(received)) is None:
            piece = connection.recv(1 << 16)
            if not piece:
                return parse_answer(received, is_over=True)
            received += piece
    except ConnectionResetError:
        return parse_answer(received, is_over=True)
    return answer


def ask(port: int, *pieces: bytes, timeout_seconds: float = 60.0) -> Answer | None:
    """Send pieces one after another, and meanwhile read one answer, which may come before all is sent.

    Buffers of sockets are small on macOS: two sides that both write before they read would wait for ever.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds) as connection:

        def send() -> None:
            with contextlib.suppress(OSError):  # the answer, if there is one, says why
                for piece in pieces:
                    connection.sendall(piece)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        try:
            return read_answer(connection)
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sending.join(timeout_seconds)


async def ask_async(port: int, content: bytes, *, timeout_seconds: float = 120.0) -> Answer | None:
    """Send a whole request and meanwhile read its answer; None when the connection ends without one."""
    async with asyncio.timeout(timeout_seconds):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return None
        received = b""
        # Not drained: an answer may be waiting that the server must get rid of before it reads on.
        writer.write(content)
        try:
            while (answer := parse_answer(received)) is None:
                piece = await reader.read(1 << 16)
                if not piece:
                    return parse_answer(received, is_over=True)
                received += piece
            return answer
        except ConnectionError:
            return parse_answer(received, is_over=True)
        finally:
            writer.close()


def parse_answer(received: bytes, *, is_over: bool = False) -> Answer | None:
    """The first final answer in what was received, None while it is not whole."""
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    if status == 100:
        return parse_answer(rest, is_over=is_over)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    length = headers.get("content-length")
    if length is not None:
        return Answer(status, headers, rest[: int(length)]) if len(rest) >= int(length) else None
    if headers.get("transfer-encoding") == "chunked":
        return Answer(status, headers, rest) if rest.endswith(b"0\r\n\r\n") else None
    return Answer(status, headers, rest) if is_over else None


def error_of(answer: Answer | None) -> dict[str, Any]:
    """The error object of a refusal, every field of its shape checked."""
    assert answer is not None, "the connection was closed without an answer"
    assert answer.status >= 400, answer
    assert answer.headers.get("content-type", "").startswith("application/json"), answer
    body = json.loads(answer.body)
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "\n" not in error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    return error
