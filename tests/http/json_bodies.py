"""JSON bodies as tests send them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.fakes.running_server import RunningServer, script

PATH = "/v1/audio/transcriptions"
SPEECH = script(text="Hello.")
JSON = {"content-type": "application/json"}


def encoded(recording: bytes = SPEECH) -> dict[str, str]:
    return {"data": base64.b64encode(recording).decode(), "format": "wav"}


def post(server: RunningServer, body: Any, *, path: str = PATH, headers: dict[str, str] | None = None):
    content = body if isinstance(body, bytes | Iterator) else json.dumps(body).encode()
    return server.client.post(path, content=content, headers={**JSON, **(headers or {})})
