"""A running server that notes its worker's messages, and requests whose answers are not read yet."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import uvicorn

from scribewire.engine.protocol.messages import Failed, FromWorker, Started
from scribewire.server.app import create_app
from scribewire.server.engine.client import EngineClient
from scribewire.server.serve import uvicorn_config
from scribewire.server.transcode.pool import Transcoder
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.pass_through import PassThrough
from tests.fakes.running_server import RunningServer

BOUNDARY = "b0undary"


class WatchedEngine(EngineClient):
    """An engine client that notes what the worker says."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.heard: list[FromWorker] = []

    def on_message(self, message: FromWorker) -> None:
        self.heard.append(message)
        super().on_message(message)

    def started_count(self) -> int:
        return sum(isinstance(message, Started) for message in self.heard)

    def cancelled_count(self) -> int:
        """Requests that the worker reported as cancelled."""
        return sum(isinstance(message, Failed) and message.code == "cancelled" for message in self.heard)


class WatchedServer(RunningServer):
    """A running server over a watched engine."""

    def __init__(self, data: Path, *, transcoder: Transcoder | None = None, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.engine: WatchedEngine = WatchedEngine.from_settings(self.settings, module=FAKE_WORKER_MODULE)
        app = create_app(self.settings, self.engine, self.key_store, transcoder=transcoder or PassThrough())
        self._server = uvicorn.Server(uvicorn_config(app, self.settings))

    def is_clean(self) -> bool:
        return self.engine.admitted == self.engine.held_count == 0 and self.leftovers() == []


def send(server: RunningServer, recording: bytes, **fields: str) -> socket.socket:
    """A whole request whose answer is not read yet."""
    body = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in {
            "file": recording,
            **{name: text.encode() for name, text in fields.items()},
        }.items()
    )
    body += f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(head.encode() + body)
    return connection
