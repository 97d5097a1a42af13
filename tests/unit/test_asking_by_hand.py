"""Requests by hand are read while they are written: a server may answer before it has read, whatever buffers hold."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.fakes.raw_http import ask, ask_async
from tests.fakes.waiting import PATIENCE_SECONDS, in_time, join, run

ANSWER_BYTES = 8 << 20
"""More than the buffers of one side grow to; the server's are small, as on macOS."""


@pytest.fixture
def answers_first() -> Iterator[int]:
    """Port of a server that reads only once its whole answer has been taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            listener.setsockopt(socket.SOL_SOCKET, option, 64 << 10)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE_SECONDS)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {ANSWER_BYTES}\r\n\r\n".encode()
                connection.sendall(head + bytes(ANSWER_BYTES))
                # Closed with something unread, it would take back what is still on its way.
                while connection.recv(1 << 16):
                    pass

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield listener.getsockname()[1]
        join(server)


def test_answer_is_read_while_the_request_is_written(answers_first: int):
    answer = in_time(ask, answers_first, bytes(ANSWER_BYTES))
    assert answer is not None
    assert len(answer.body) == ANSWER_BYTES


def test_answer_is_read_while_the_request_is_written_on_an_event_loop(answers_first: int):
    answer = run(ask_async(answers_first, bytes(ANSWER_BYTES)))
    assert answer is not None
    assert len(answer.body) == ANSWER_BYTES
