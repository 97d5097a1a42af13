"""Recordings inside JSON and recordings named by their path: whatever cut, escaped, malformed or out of bounds."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.http.errors import ApiError
from scribewire.server.intake.form import MAX_FIELDS, FormFields, fields_from_json
from scribewire.server.intake.json_body import MAX_DELIMITERS, PIECE_CHARACTERS, JsonParser, parse_json
from scribewire.server.intake.receiving import RecordingFile
from tests.fakes.longest_call import LongestCall
from tests.fakes.running_server import RunningServer, assert_openai_error
from tests.http.json_bodies import PATH, encoded, post


class Parsed:
    """The result of parsing a body, with no server around it."""

    def __init__(self, folder: Path, body: bytes, *, max_upload_bytes: int = 1 << 20) -> None:
        path = folder / os.urandom(8).hex()
        path.write_bytes(body)
        with ThreadPoolExecutor(1) as executor:
            file = RecordingFile(path.with_suffix(".rec"), max_bytes=max_upload_bytes, executor=executor)
            try:
                parameters, self.path = parse_json(path, file)
            finally:
                file.close()
        self.fields: FormFields = fields_from_json(parameters)
        self.recording = file.path.read_bytes()


def refusal(folder: Path, body: bytes, *, max_upload_bytes: int = 1 << 20) -> ApiError:
    with pytest.raises(ApiError) as refused:
        Parsed(folder, body, max_upload_bytes=max_upload_bytes)
    return refused.value


def test_recording_in_json_is_transcribed(server: RunningServer):
    response = post(server, {"model": "whisper-1", "language": "en", "input_audio": encoded()})
    assert response.json()["text"] == "Hello."


def test_recording_in_json_arrives_byte_for_byte(server: RunningServer):
    recording = random.Random(1).randbytes(3_000_001)
    body = json.dumps({"input_audio": encoded(recording)}).encode()
    for content in (body, (body[at : at + 65_537] for at in range(0, len(body), 65_537))):
        text = post(server, content).json()["text"]
        assert hashlib.sha256(recording).hexdigest() in text
    assert server.leftovers() == []


def test_json_is_taken_for_jobs_too(server: RunningServer):
    response = post(server, {"input_audio": encoded()}, path="/transcribe")
    assert response.status_code == 202


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_content_type_may_say_more(server: RunningServer, content_type: str):
    response = post(server, {"input_audio": encoded()}, headers={"content-type": content_type})
    assert response.json()["text"] == "Hello."


def test_body_means_the_same_wherever_its_pieces_end(tmp_path: Path):
    recording = bytes(range(256)) + b"\xff\xef\xbe" * 20
    audio = base64.b64encode(recording).decode()
    # As PHP (escaped slashes), .NET (escaped plus signs) and encoders that wrap lines write it.
    audio = audio.replace("/", "\\/", 9).replace("+", "\\u002B", 5)
    audio = audio[:40] + "\\n" + audio[40:80] + "\\r\\n" + audio[80:]
    prompt = 'a \\"quoted\\" {[,:]} \\\\ \\\\\\\\ \\u00e9\\ud83d\\ude00 é😀 \\\\u0041'
    body = (
        '{"prompt": "' + prompt + '", "temperature" : -0.25e+1, "other": {"data": "no", "input_audio": '
        '{"data": "nor this"}}, "stream" : true, "input_\\u0061udio" : {"format":"wav", "data" : "'
        + audio
        + '"}, "n": [1, 2]}'
    )
    # Spaces in front move the end of the first piece over every character of the body in turn.
    for spaces in [0, *range(PIECE_CHARACTERS - len(body), PIECE_CHARACTERS + 1)]:
        parsed = Parsed(tmp_path, (" " * spaces + body).encode())
        assert parsed.recording == recording, spaces
        assert parsed.fields.value("prompt") == 'a "quoted" {[,:]} \\ \\\\ é😀 é😀 \\u0041', spaces
        assert parsed.fields.value("temperature") == -2.5, spaces
        assert parsed.fields.value("stream") is True, spaces


@pytest.mark.parametrize("unit", ["A", "\\u0041", "\\ud83d\\ude00", "\\\\", '\\"', "é", "😀", "\\\\u0041"])
@pytest.mark.parametrize("shift", range(12))
def test_long_text_means_the_same_wherever_its_pieces_end(tmp_path: Path, unit: str, shift: int):
    text = "x" * shift + unit * 25_000
    body = f'{{"prompt": "{text}", "input_audio": {{"data": "QUJD"}}}}'
    assert Parsed(tmp_path, body.encode()).fields.value("prompt") == json.loads(f'"{text}"')


def test_values_become_fields(tmp_path: Path):
    body = {
        "model": "whisper-1",
        "temperature": 0.2,
        "seed": 7,
        "stream": False,
        "prompt": None,
        "keywords": ["Ada", "Bob"],
        "chunking_strategy": {"type": "server_vad", "threshold": 0.5, "inner": {"deep": True}},
        "timestamp_granularities[]": ["segment"],
        "input_audio": encoded(),
    }
    fields = Parsed(tmp_path, json.dumps(body).encode()).fields
    assert {name: fields.value(name) for name in ("model", "temperature", "seed", "stream", "prompt")} == {
        "model": "whisper-1",
        "temperature": 0.2,
        "seed": 7,
        "stream": False,
        "prompt": None,
    }
    assert fields.items("keywords") == ["Ada", "Bob"]
    assert fields.items("timestamp_granularities") == ["segment"]
    assert fields.value("chunking_strategy") == {
        "type": "server_vad", "threshold": 0.5, "inner": {"deep": True},
    }  # fmt: skip
    assert fields.value("input_audio") is None


@pytest.mark.parametrize(("sent", "is_null"), [({"chunking_strategy": None}, True), ({}, False)])
def test_null_is_told_from_nothing_where_it_means_something(
    tmp_path: Path, sent: dict[str, None], is_null: bool
):
    body = json.dumps({**sent, "prompt": None, "input_audio": encoded()}).encode()
    fields = Parsed(tmp_path, body).fields
    assert fields.is_null("chunking_strategy") == is_null
    assert fields.value("prompt") is None


def test_unknown_keys_are_ignored(server: RunningServer):
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    body = {"provider": {"order": ["x"], "deep": deep}, "user": "u", "input_audio": {**encoded(), "more": 1}}
    assert post(server, body).json()["text"] == "Hello."


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "json_invalid", None),
        (b"RIFF", "json_invalid", None),
        (b"[]", "json_invalid", None),
        (b'"text"', "json_invalid", None),
        (b"{", "json_invalid", None),
        (b"}", "json_invalid", None),
        (b'{"input_audio": {"data": "QUJD"}', "json_invalid", None),
        (b'{"input_audio": {"data": "QUJD', "json_invalid", None),
        (b'{"input_audio": {"data": "QUJD"}} more', "json_invalid", None),
        (b'{"input_audio": {"data": "QUJD"}, "temperature": NaN}', "json_invalid", None),
        (b'{"input_audio": {"data": "QUJD"}, "prompt": "\xff"}', "json_invalid", None),
        (b'{"bad\\x": 1, "input_audio": {"data": "QUJD"}}', "json_invalid", None),
        (b"[" * 65, "json_too_complex", None),
        (b"[" * 2000, "json_too_complex", None),
        (b'{"a":' * 2000, "json_too_complex", None),
        (b'{"a": [' + b"1," * MAX_DELIMITERS, "json_too_complex", None),
        (b"{" + b"," * MAX_DELIMITERS, "json_invalid", None),
        (b'{"a": 1,}', "json_invalid", None),
        (b'{"a": [1,]}', "json_invalid", None),
        (b'{"a" 1}', "json_invalid", None),
        (b'{"a": 1 "b": 2}', "json_invalid", None),
        (b'{"a": 01}', "json_invalid", None),
        (b'{"a": tru}', "json_invalid", None),
        (b'{"a": "\\u12"}', "json_invalid", None),
        (b'{"a": "\\', "json_invalid", None),
        (b'{"a": ]}', "json_invalid", None),
        (b"{1: 2}", "json_invalid", None),
        (b"{\xc2\xa0}", "json_invalid", None),
        (b'{"a": ' + b"1" * 200_000 + b"}", "json_invalid", None),
        (b"{}", "file_missing", "input_audio"),
        (b'{"model": "whisper-1"}', "file_missing", "input_audio"),
        (b'{"input_audio": "QUJD"}', "invalid_parameter", "input_audio"),
        (b'{"input_audio": {"format": "wav"}}', "file_missing", "input_audio.data"),
        (b'{"input_audio": {"data": 5}}', "file_missing", "input_audio.data"),
        (b'{"input_audio": {"data": ["QUJD"]}}', "file_missing", "input_audio.data"),
        (b'{"input_audio": {"data": "QUJ"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "QUJD\nQUJD"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "QQ==QUJD"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "Q=JD"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "QU-_"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "QUJ\\u00e9"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "QUJ\\\\"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "data:audio/wav;base64,QUJD"}}', "base64_invalid", "input_audio.data"),
        (b'{"input_audio": {"data": "QUJD", "data": "QUJD"}}', "duplicate_field", "input_audio"),
        (b'{"input_audio": {"data": "QUJD"}, "file_path": "/a"}', "duplicate_field", "file_path"),
        (b'{"input_audio": {"data": "QUJD"}, "model": "a", "model": "b"}', "duplicate_field", "model"),
        (b'{"input_audio": {"data": "QUJD"}, "prompt": "\\ud800"}', "field_not_text", None),
        (b'{"file_path": 5}', "invalid_parameter", "file_path"),
        (b'{"file_path": ""}', "invalid_parameter", "file_path"),
    ],
)
def test_damaged_json_is_refused_with_its_field_and_leaves_nothing(
    server: RunningServer, body: bytes, code: str, param: str | None
):
    assert_openai_error(post(server, body), 400, code, param=param)
    assert server.leftovers() == []


def test_fields_of_json_are_bounded_as_those_of_a_form(tmp_path: Path):
    audio = {"input_audio": encoded()}
    many = json.dumps({**{f"f{i}": 1 for i in range(MAX_FIELDS + 1)}, **audio}).encode()
    assert refusal(tmp_path, many).code == "too_many_fields"
    large = json.dumps({"prompt": "x" * ((1 << 20) + 1), **audio}).encode()
    assert (refusal(tmp_path, large).code, refusal(tmp_path, large).param) == ("field_too_large", "prompt")
    larger = json.dumps({f"f{i}": "x" * (1 << 20) for i in range(5)}).encode()
    assert refusal(tmp_path, larger, max_upload_bytes=1 << 30).rule.status == 413
    long_name = json.dumps({"n" * 300: 1, **audio}).encode()
    assert refusal(tmp_path, long_name).code == "field_too_large"
    numbers = b'{"n": ' + b"1" * 5000 + b"}"
    assert refusal(tmp_path, numbers).code == "file_missing"


def test_size_cap_holds_for_json_with_and_without_a_declared_length(tmp_path: Path):
    with RunningServer(tmp_path, max_upload_bytes=100_000) as running:
        assert post(running, {"input_audio": encoded(b"x" * 100_000)}).status_code == 200
        body = json.dumps({"input_audio": encoded(b"x" * 100_001)}).encode()
        for content in (body, iter([body[:70_000], body[70_000:]])):
            assert_openai_error(post(running, content), 413, "upload_too_large", param="file")
        assert running.leftovers() == []


def test_json_body_over_its_own_cap_is_413_and_told_of_the_form(tmp_path: Path):
    with RunningServer(tmp_path, max_json_body_bytes=100_000) as running:
        fits = json.dumps({"input_audio": encoded()}).encode()
        fits += b" " * (100_000 - len(fits))
        assert post(running, fits).json()["text"] == "Hello."
        for content in (fits + b" ", iter([fits, b" "])):
            error = assert_openai_error(post(running, content), 413, "upload_too_large")
            assert "multipart form" in error["message"]
            assert "--max-json-body-bytes" in error["message"]
        assert running.leftovers() == []
        # The form has no part in this limit.
        assert running.transcribe(b"x" * 200_000).status_code == 200


def test_no_call_is_handed_more_than_a_piece(tmp_path: Path):
    """Neither a long recording nor a long text, whatever it is made of, makes one call hold Python's lock for long."""
    largest: dict[str, int] = {}

    class Watched(RecordingFile):
        def append(self, block: bytes) -> None:
            largest["append"] = max(largest.get("append", 0), len(block))
            super().append(block)

    class Reader(io.TextIOWrapper):
        def read(self, size: int | None = -1) -> str:
            text = super().read(size)
            largest["read"] = max(largest.get("read", 0), len(text))
            return text

    recording = random.Random(3).randbytes(1_000_000)
    data = "".join(f"\\u{ord(letter):04x}" for letter in base64.b64encode(recording).decode())
    prompt = "\\u0041" * 200_000
    body = f'{{"prompt": "{prompt}", "input_audio": {{"data": "{data}"}}}}'.encode()
    with ThreadPoolExecutor(1) as executor:
        file = Watched(tmp_path / "recording", max_bytes=1 << 20, executor=executor)
        parser = JsonParser(Reader(io.BytesIO(body), encoding="utf-8", newline=""), file)
        content = parser.document()
        file.close()
    assert isinstance(content, dict)
    assert content["prompt"] == "A" * 200_000
    assert file.path.read_bytes() == recording
    assert largest["read"] == PIECE_CHARACTERS
    assert largest["append"] <= PIECE_CHARACTERS


def test_longest_call_of_a_parse_is_far_below_twenty_milliseconds(tmp_path: Path):
    """Of the thread's own time, in which other programs have no part."""
    longest = LongestCall()
    text = "\\ud83d\\ude00" * 80_000
    for body in (
        f'{{"prompt": "{text}", "input_audio": {{"data": "QUJD"}}}}',
        '{"input_audio": {"data": "' + "\\u0051" * 400_000 + '"}}',
        '{"input_audio": {"data": "' + "QUJD" * 600_000 + '"}}',
        '{"a": [' + "[]," * 3_000 + '[]], "input_audio": {"data": "QUJD"}}',
        " " * 3_000_000 + '{"input_audio": {"data": "QUJD"}}',
    ):
        path = tmp_path / os.urandom(8).hex()
        path.write_bytes(body.encode())
        with ThreadPoolExecutor(1) as executor:
            file = RecordingFile(path.with_suffix(".rec"), max_bytes=1 << 22, executor=executor)
            with longest:
                parse_json(path, file)
            file.close()
    assert longest.seconds < 0.02, longest.name


def test_declared_json_body_over_the_cap_is_refused_by_its_length_alone(tmp_path: Path):
    with RunningServer(tmp_path, max_json_body_bytes=3_000_000) as running:
        head = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % running.port
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
            connection.sendall(head + b"Content-Type: application/json\r\nContent-Length: 3000001\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
