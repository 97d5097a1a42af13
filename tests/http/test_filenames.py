"""A job keeps its file's base name: of the form's part or of the field, shown wherever jobs are, never a path."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from scribewire.server.jobs.job import base_name
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.http.test_jobs import ended, state

BOUNDARY = "b0undary"
SPEECH = script(text="Hello.")


def submitted(server: RunningServer, disposition: str, *fields: tuple[str, str]) -> dict[str, Any]:
    """A job of a form whose recording has this disposition, as GET shows it."""
    parts = [(f'name="{name}"', value.encode()) for name, value in fields] + [(disposition, SPEECH)]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in parts
    )
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = server.client.post("/transcribe", content=body + f"--{BOUNDARY}--\r\n".encode(), headers=headers)
    assert answer.status_code == 202, answer.text
    return state(server, answer.json()["job_id"])


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('name="file"; filename="talk.mp3"', "talk.mp3"),
        ('name="file"; filename="Größe 你好.wav"', "Größe 你好.wav"),
        ('name="file"; filename="../../etc/passwd"', "passwd"),
        ("name=file; filename*=UTF-8''na%C3%AFve%2F..%2Fcaf%C3%A9.wav", "café.wav"),
        ('name="file"', None),
        ('name="file"; filename=""', None),
    ],
)
def test_name_of_the_part_is_shown_by_get_and_in_lists(
    server: RunningServer, disposition: str, filename: str | None
):
    job = submitted(server, disposition)
    assert job["filename"] == filename
    listed = server.client.get("/jobs").json()["data"][0]
    assert (listed["job_id"], listed["filename"]) == (job["job_id"], filename)


def test_name_that_is_sent_as_a_field_goes_before_that_of_the_part(server: RunningServer):
    job = submitted(server, 'name="file"; filename="blob"', ("filename", "D:\\talks\\one.mp3"))
    assert job["filename"] == "one.mp3"
    body = {"input_audio": {"data": base64.b64encode(SPEECH).decode()}, "filename": "two.mp3"}
    answer = server.client.post("/transcribe", json=body)
    assert state(server, answer.json()["job_id"])["filename"] == "two.mp3"
    refused = server.client.post("/transcribe", json=body | {"filename": ["a"]})
    assert_openai_error(refused, 400, "invalid_parameter", param="filename")


def test_same_recording_under_another_name_is_the_same_submission(server: RunningServer):
    def sent(name: str) -> httpx.Response:
        return server.client.post(
            "/transcribe", files={"file": (name, SPEECH)}, headers={"Idempotency-Key": "one-recording"}
        )

    first, again = sent("a.wav"), sent("b.wav")
    assert (again.status_code, again.json()["job_id"]) == (202, first.json()["job_id"])
    assert state(server, first.json()["job_id"])["filename"] == "a.wav"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("talk.mp3", "talk.mp3"),
        ("/a/b/c.wav", "c.wav"),
        ("C:\\a\\b.wav", "b.wav"),
        ("a\tb\nc\x00\x1b[31m.wav", "a b c[31m.wav"),
        ("memo 5.04.07\u202fPM.m4a", "memo 5.04.07 PM.m4a"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("x" * 300, "x" * 255),
        ("", None),
        ("a/", None),
        ("..", None),
        ("\x00", None),
    ],
)
def test_name_is_one_visible_line_without_folders(path: str, name: str | None):
    assert base_name(path) == name


def test_name_is_in_no_log_line(server: RunningServer, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    job = submitted(server, 'name="file"; filename="confidential.mp3"')
    ended(server, job["job_id"])
    events = [getattr(record, "scribewire_event", {}) for record in caplog.records]
    assert any(event.get("job_id") == job["job_id"] for event in events)
    assert "confidential" not in caplog.text + repr(events)
