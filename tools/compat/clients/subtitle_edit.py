"""The form that Subtitle Edit 5 sends, part by part as .NET writes it, and what it reads of the answer.

Source: OpenAiSttService.cs of SubtitleEdit/subtitleedit. The program itself needs a desktop and .NET.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from checks import Checks, assert_words

CHECKS = Checks()
PLAN = CHECKS.plan
ENGLISH, SPANISH = PLAN["recordings"]["english"], PLAN["recordings"]["spanish"]
BOUNDARY = "7b1f6c0e-4f0a-4a39-9f0e-0f5f5f3d2c11"


def part(name: str, value: str) -> bytes:
    """A StringContent of MultipartFormDataContent: its type first, and a name without quotation marks."""
    head = f"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name={name}"
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n{value}\r\n".encode()


def sent(
    recording: dict[str, Any], *, stream: bool = False, key: str = PLAN["key"], **fields: str
) -> tuple[Any, str]:
    """The answer and its body. No User-Agent is sent, and the boundary stands in quotation marks."""
    name = "329c7fae-ea34-4faf-803f-9a1450e7fd60.wav"
    body = (
        f"--{BOUNDARY}\r\nContent-Type: audio/wav\r\nContent-Disposition: form-data; name=file; "
        f"filename={name}; filename*=utf-8''{name}\r\n\r\n"
    ).encode()
    body += Path(recording["path"]).read_bytes() + b"\r\n"
    body += b"".join(part(*one) for one in fields.items())
    body += part("response_format", "json")
    body += part('"timestamp_granularities[]"', "segment") + part('"timestamp_granularities[]"', "word")
    if stream:
        body += part("stream", "true")
    body += f"--{BOUNDARY}--\r\n".encode()
    address = urlsplit(PLAN["base_url"])
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"',
    }
    connection.request("POST", f"{address.path}/audio/transcriptions", body, headers)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    return answer, text


def answered(recording: dict[str, Any], **fields: str) -> None:
    answer, text = sent(recording, **fields)
    assert answer.status == 200, text
    body = json.loads(text)
    assert_words(body["text"], recording)
    assert "word times" in " ".join(body["warnings"]), body


def streamed() -> None:
    """It keeps an event only if the event has a name, and joins the deltas."""
    answer, text = sent(SPANISH, stream=True, model="whisper-large-v3-turbo", prompt="Streamed.")
    assert answer.status == 200, text
    assert answer.headers["content-type"].startswith("text/event-stream")
    said, kinds = "", []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "event" in fields:
            kinds.append(fields["event"])
            said += json.loads(fields["data"]).get("delta", "")
    assert kinds[-1] == "transcript.text.done", kinds
    assert_words(said, SPANISH)


def refused() -> None:
    answer, text = sent(ENGLISH, key="wrong")
    assert answer.status == 401, text
    assert json.loads(text)["error"]["code"] == "invalid_api_key", text


CHECKS.add("json with both granularities", lambda: answered(ENGLISH, model="whisper-large-v3-turbo"))
CHECKS.add("no model, language, prompt", lambda: answered(SPANISH, language="es", prompt="Un viaje."))
CHECKS.add("temperature", lambda: answered(ENGLISH, model="whisper-1", temperature="0.20"))
CHECKS.add("stream, by the names of events", streamed)
CHECKS.add("wrong key", refused)
CHECKS.run()
