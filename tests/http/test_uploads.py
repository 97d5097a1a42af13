"""Recordings on their way in: every order and framing, every bound, and nothing left on disk."""

from __future__ import annotations

import os
import socket
import stat
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from scribewire.server.intake.form import MAX_FIELDS, MultipartBody
from scribewire.server.intake.receiving import RecordingFile
from scribewire.server.intake.uploads import PARAMETER_NAMES
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import wait_until

BOUNDARY = "b0undary"
SPEECH = script(text="Hello.")
PATH = "/v1/audio/transcriptions"


def part(name: str | None, value: bytes, filename: str | None = None) -> bytes:
    disposition = "form-data"
    if name is not None:
        disposition += f'; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post(server: RunningServer, body: bytes | Iterator[bytes], path: str = PATH) -> httpx.Response:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    return server.client.post(path, content=body, headers=headers)


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize(
    "parts",
    [
        (part("file", SPEECH, "a.wav"), part("model", b"whisper-1"), part("response_format", b"text")),
        (part("model", b"whisper-1"), part("response_format", b"text"), part("file", SPEECH, "a.wav")),
        (part("response_format", b"text"), part("file", SPEECH)),
        (part(None, SPEECH, "upload"), part("response_format", b"text")),
        (part("file", SPEECH, "Größe \xff\xfe.wav"), part("response_format", b"text")),
        (part("file", SPEECH, "../../../etc/" + "x" * 300), part("response_format", b"text")),
        (
            part("extra", b"\x00\xff" * 1000, "x.bin"),
            part("file", SPEECH, "a"),
            part("response_format", b"text"),
        ),
    ],
    ids=["first", "last", "no file name", "no field name", "odd name", "hostile name", "another file"],
)
def test_recording_is_found_wherever_it_stands(server: RunningServer, parts: tuple[bytes, ...]):
    assert post(server, form(*parts)).text == "Hello.\n"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chunked_upload_without_a_declared_length_is_read(server: RunningServer, size: int):
    body = form(part("file", SPEECH, "a.wav"), part("model", b"whisper-1"))
    response = post(server, in_pieces(body, size))
    assert "content-length" not in response.request.headers
    assert response.json()["text"] == "Hello."


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (form(part("model", b"whisper-1")), "file_missing", "file"),
        (form(), "file_missing", "file"),
        (form(part("file", SPEECH, "a"), part("file", SPEECH, "b")), "duplicate_field", "file"),
        (form(part("file", SPEECH), *[part(f"f{i}", b"") for i in range(MAX_FIELDS + 1)]), "too_many_fields", None),
        (form(part("prompt", b"x" * ((1 << 20) + 1)), part("file", SPEECH)), "field_too_large", "prompt"),
        (form(part("prompt", b"\xff\xfe"), part("file", SPEECH)), "field_not_text", None),
        (form(part("file", SPEECH))[:-20], "upload_incomplete", None),
        (b"", "upload_incomplete", None),
        (b"not a form at all", "form_invalid", None),
        (form(part("language", b"en"), part("language", b"es"), part("file", SPEECH)), "duplicate_field",
         "language"),
    ],
)  # fmt: skip
def test_damaged_form_is_refused_and_leaves_nothing(
    server: RunningServer, body: bytes, code: str, param: str | None
):
    assert_openai_error(post(server, body), 400, code, param=param)
    assert server.leftovers() == []


@pytest.mark.parametrize(
    "content_type",
    [None, "audio/wav", "text/json", "multipart/form-data", "multipart/form-data; boundary="],
)
def test_body_that_is_no_form_is_refused(server: RunningServer, content_type: str | None):
    headers = {} if content_type is None else {"content-type": content_type}
    response = server.client.post(PATH, content=b"RIFF", headers=headers)
    error = assert_openai_error(response, 400, "form_expected")
    is_form = (content_type or "").startswith("multipart/form-data")
    assert ("names no boundary" in error["message"]) == is_form


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n", b"A form follows.\r\n", b"--\r\n-- other\n" * 999])
def test_text_before_the_first_boundary_means_nothing(server: RunningServer, before: bytes, size: int):
    body = before + form(part("file", SPEECH, "a.wav"), part("response_format", b"text"))
    assert post(server, in_pieces(body, size)).text == "Hello.\n"


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_boundary_that_the_body_does_not_have_is_named(server: RunningServer, size: int):
    body = form(part("file", SPEECH, "a.wav"))
    for wrong in (body.replace(b"--", b"-_"), b"x" + body.partition(b"\r\n")[0], b" --" + body[2:60]):
        error = assert_openai_error(post(server, in_pieces(wrong, size)), 400, "form_invalid")
        assert f"'--{BOUNDARY}'" in error["message"]
    assert server.leftovers() == []


def test_boundary_too_long_is_refused(server: RunningServer):
    headers = {"content-type": "multipart/form-data; boundary=" + "x" * 1000}
    assert_openai_error(server.client.post(PATH, content=b"--x", headers=headers), 400, "form_invalid")


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([part("n" * 300, b"")], 400, "field_too_large"),
        ([part("n" * (64 << 10), b"")], 400, "form_invalid"),
        ([part("file", SPEECH, "n" * (17 << 10))], 400, "form_invalid"),
        ([part(f"f{i}", b"x" * (1 << 20)) for i in range(5)], 413, "form_too_large"),
        ([part(f"f{i}", b"x", ";" * (15 << 10)) for i in range(400)], 413, "form_too_large"),
        ([part("f", b"x" * (5 << 20), "other.bin")], 413, "form_too_large"),
        ([part("unknown", b"x" * ((1 << 20) + 1))], 400, "field_too_large"),
    ],
)
def test_names_headers_and_fields_have_bounds_of_their_own_and_together(
    server: RunningServer, parts: list[bytes], status: int, code: str
):
    error = post(server, form(*parts, part("file", SPEECH)))
    assert (error.status_code, error.json()["error"]["code"]) == (status, code)
    assert server.leftovers() == []


@pytest.mark.parametrize(
    ("filling", "status", "code"),
    [
        (b"\r\n" * (3 << 20), 400, "form_invalid"),
        (b"\r\n" * (3 << 20) + form(part("file", SPEECH)), 400, "form_invalid"),
        (form(part("file", SPEECH)) + b"x" * (5 << 20), 413, "form_too_large"),
    ],
)
def test_what_surrounds_a_form_is_bounded_as_its_fields_are(
    server: RunningServer, filling: bytes, status: int, code: str
):
    assert_openai_error(post(server, in_pieces(filling, 1 << 16)), status, code)


def test_unknown_fields_are_counted_and_not_kept(tmp_path: Path):
    with ThreadPoolExecutor(1) as executor:
        file = RecordingFile(tmp_path / "recording", max_bytes=1000, executor=executor)
        body = MultipartBody(f"multipart/form-data; boundary={BOUNDARY}", ("file",), file, PARAMETER_NAMES)
        fields = [part(f"unknown{i}", b"x" * 1000) for i in range(900)]
        known = [part("prompt", b"kept"), part("include[]", b"a"), part("chunking_strategy[type]", b"b")]
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        body.feed(b"".join(fields))
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        body.feed(form(*known, part("file", b"")))
        found = body.finish()
        file.close()
    assert after - before < 20_000
    assert found.value("unknown1") is None
    assert (found.value("prompt"), found.items("include")) == ("kept", ["a"])
    assert found.parts("chunking_strategy") == {"type": "b"}


@pytest.mark.parametrize(
    ("disposition", "is_recording"),
    [
        ('form-data; name="file"; filename="a;b\\"; name=\\"model.wav"', True),
        ("form-data; name=file", True),
        ('form-data ; NAME = "file" ; filename = x', True),
        ('form-data; name="fi\\le"', True),
        ('form-data; filename="C:\\dir\\"; name=file', True),
        ("form-data; filename*0=a; filename*1=b; name=file", True),
        ('form-data; filename="', True),
        ('form-data; note="; name=file"', False),
        ("form-data; name*=UTF-8''file", False),
        ("form-data" + ";" * 16_000, False),
        ('form-data; a="' + ";" * 16_000, False),
    ],
)
def test_names_of_parts_are_read_as_clients_write_them(
    server: RunningServer, disposition: str, is_recording: bool
):
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
    answer = post(server, head + SPEECH + f"\r\n--{BOUNDARY}--\r\n".encode())
    if is_recording:
        assert answer.json()["text"] == "Hello."
    else:
        assert_openai_error(answer, 400, "file_missing", param="file")


def test_prompt_of_a_mebibyte_is_accepted(server: RunningServer):
    assert post(server, form(part("prompt", b"x" * (1 << 20)), part("file", SPEECH))).status_code == 200


def test_size_cap_holds_with_and_without_a_declared_length(tmp_path: Path):
    with RunningServer(tmp_path, max_upload_bytes=100_000) as running:
        fits = form(part("file", b"x" * 100_000, "a"))
        assert post(running, fits).status_code == 200
        too_large = form(part("file", b"x" * 100_001, "a"))
        for body in (too_large, in_pieces(too_large, 8192)):
            assert_openai_error(post(running, body), 413, "upload_too_large", param="file")
        assert running.leftovers() == []
        assert post(running, fits).status_code == 200


def test_declared_size_over_the_cap_is_refused_before_the_body(tmp_path: Path):
    with RunningServer(tmp_path, max_upload_bytes=1000) as running:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Length: 99999999999\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
            connection.sendall(head.encode())
            answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"upload_too_large" in answer
        assert b"connection: close" in answer.lower()


def test_declared_size_over_what_the_disk_has_left_is_507_before_the_body(tmp_path: Path):
    with RunningServer(tmp_path, max_upload_bytes=1 << 60) as running:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Length: {1 << 59}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
            connection.sendall(head.encode())
            answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 507 ")
        assert b"disk_full" in answer
        assert running.leftovers() == []


def test_body_with_two_lengths_is_refused(server: RunningServer):
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 5\r\n"
        f"Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer.lower()


def read_answer(connection: socket.socket) -> bytes:
    """Head and JSON body of an answer, however they are cut into pieces."""
    answer = b""
    while not answer.endswith(b"}}"):
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {answer!r}"
        answer += piece
    return answer


def half_upload(server: RunningServer, size: int = 3 << 20) -> socket.socket:
    """Send headers and a part of the recording, as much as makes the server write to its disk."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nTransfer-Encoding: chunked\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    start = part("file", b"x" * size, "a.wav")[:-2]
    connection.sendall(head.encode() + f"{len(start):x}\r\n".encode() + start + b"\r\n")
    return connection


def test_upload_is_private_while_it_lies_on_disk(server: RunningServer):
    connection = half_upload(server)
    folder = wait_until(server.leftovers)[0]
    recording = folder / "recording"
    wait_until(recording.exists)
    assert stat.S_IMODE(recording.stat().st_mode) == 0o600
    for private in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    connection.close()
    wait_until(lambda: not server.leftovers())


def test_upload_that_stops_half_way_leaves_no_file_and_no_descriptor(server: RunningServer):
    server.transcribe(SPEECH)
    wait_until(lambda: len(server._server.server_state.connections) == 1)
    before = len(os.listdir("/dev/fd"))
    connections = [half_upload(server) for _ in range(20)]
    wait_until(lambda: len(list(server.settings.data.rglob("recording"))) == 20)
    for connection in connections:
        connection.close()
    wait_until(lambda: not server.leftovers())
    wait_until(lambda: len(os.listdir("/dev/fd")) <= before)
    assert server.transcribe(SPEECH).status_code == 200


def test_upload_that_stalls_is_dropped(tmp_path: Path):
    with RunningServer(tmp_path, upload_idle_seconds=0.2) as running:
        connection = half_upload(running)
        wait_until(running.leftovers)
        answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"upload_stalled" in answer
        wait_until(lambda: not running.leftovers())
        connection.close()


def test_uploads_at_once_are_bounded(tmp_path: Path):
    with RunningServer(tmp_path, max_concurrent_uploads=1) as running:
        connection = half_upload(running)
        wait_until(running.leftovers)
        response = running.transcribe(SPEECH)
        assert_openai_error(response, 429, "too_many_uploads")
        assert int(response.headers["retry-after"]) > 0
        connection.close()
        wait_until(lambda: not running.leftovers())
        assert running.transcribe(SPEECH).status_code == 200


def test_recording_is_deleted_whether_or_not_it_could_be_transcribed(server: RunningServer):
    assert server.transcribe(SPEECH).status_code == 200
    assert server.transcribe(script(fail="audio_undecodable")).status_code == 400
    assert server.leftovers() == []
