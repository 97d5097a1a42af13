"""A real server on a free loopback port, in a thread of this process, with the fake worker as its engine."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from scribewire.server.access.keys import KeyStore
from scribewire.server.app import create_app
from scribewire.server.context import ServerContext
from scribewire.server.engine.client import EngineClient
from scribewire.server.http.listening import bind
from scribewire.server.serve import DrainingServer, uvicorn_config
from scribewire.server.settings.fields import Settings
from scribewire.server.speakers.child import Speakers
from scribewire.server.transcode.pool import Transcoder
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.pass_through import PassThrough
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until

SETTINGS: dict[str, Any] = {"model": "fake", "drain_seconds": 0.5, "restart_backoff_seconds": (0.0,)}
"""Of every server of the tests: a dead worker is replaced at once, however often it dies."""

STAND_IN_MODULE = "tests.fakes.speaker_stand_in"
"""Named and not imported: only tests of speakers load it, in a child."""


def script(**keys: Any) -> bytes:
    """A recording that is a script for the fake worker."""
    return json.dumps(keys).encode()


class RunningServer:
    """Use as a context manager; keyword arguments are settings."""

    def __init__(
        self,
        data: Path,
        *,
        wait_ready: bool = True,
        engine_module: str = FAKE_WORKER_MODULE,
        transcoder: Transcoder | None = None,
        speaker_module: str = STAND_IN_MODULE,
        **settings: Any,
    ) -> None:
        """decoder: by default the real one with a real engine, and with the fake none, which is sent scripts."""
        self.settings = Settings(data=data, **{**SETTINGS, **settings})
        self.key_store = KeyStore(data)
        self.engine = EngineClient.from_settings(self.settings, module=engine_module)
        self._wait_ready = wait_ready
        self._listener = bind("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if transcoder is None and engine_module == FAKE_WORKER_MODULE:
            transcoder = PassThrough()
        self.speakers = Speakers.from_settings(self.settings, module=speaker_module)
        app = create_app(
            self.settings, self.engine, self.key_store, transcoder=transcoder, speakers=self.speakers
        )
        self.context: ServerContext = app.state.context
        config = uvicorn_config(app, self.settings)
        self._server = DrainingServer(config, self.engine, app.state.context.stopping)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._listener])), daemon=True
        )
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    def __enter__(self) -> RunningServer:
        self._thread.start()
        wait_until(lambda: self._server.started)
        if self._wait_ready:
            wait_until(lambda: self.engine.state in ("ready", "failed"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()
        self._thread.join(PATIENCE_SECONDS)
        self._listener.close()
        assert not self._thread.is_alive(), "the server did not stop"

    def stop(self) -> None:
        """Ask it to end, as a signal would; leaving the context waits for that."""
        self._server.should_exit = True

    def wait_ended(self) -> None:
        """Wait until it has ended."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"

    def transcribe(self, recording: bytes, **fields: Any) -> httpx.Response:
        """POST /v1/audio/transcriptions, headers taken from `headers=`."""
        headers = fields.pop("headers", None)
        return self.client.post(
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", recording, "application/octet-stream")},
            data=fields,
            headers=headers,
        )

    def leftovers(self) -> list[Path]:
        """Recordings that are on disk now, of requests and of jobs."""
        servers = (self.settings.data / "uploads").glob("server-*")
        uploads = [path for server in servers for path in server.iterdir() if path.is_dir()]
        jobs = self.settings.data / "jobs"
        return [*uploads, *jobs.glob("*audio/*"), *jobs.glob("incoming/*")]


def assert_openai_error(
    response: httpx.Response, status: int, code: str, *, param: str | None = None
) -> dict[str, Any]:
    """Check the whole error shape and return the error object."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param), body
    assert body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error
