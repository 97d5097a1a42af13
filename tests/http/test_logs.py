"""Logs: one JSON object a line, no texts, no keys, no forged lines."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.observability.logs import (
    JsonLineFormatter,
    TextLineFormatter,
    configure_logging,
    log_event,
)
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until


class Lines:
    """The log as it would be written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def events(self, name: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.text.splitlines()]
        return [event for event in events if event["event"] == name]


@pytest.fixture
def lines() -> Iterator[Lines]:
    written = Lines()
    handler = logging.StreamHandler(written.stream)
    handler.setFormatter(JsonLineFormatter())
    logger = logging.getLogger("scribewire")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_no_transcript_prompt_or_key_is_logged(tmp_path: Path, lines: Lines):
    key_id, secret = KeyStore(tmp_path).create("ann")
    headers = {"authorization": f"Bearer {secret}"}
    with RunningServer(tmp_path) as running:
        response = running.transcribe(
            script(text="spoken words", partials=["spoken", "words"]), prompt="my context", headers=headers
        )
        assert response.json()["text"] == "spoken words"
        running.transcribe(script(fail="engine_fault"), headers=headers)
        wait_until(lambda: len(lines.events("request")) == 2)
    for private in ("spoken", "my context", secret, secret[-20:]):
        assert private not in lines.text
    (answered, _) = lines.events("request")
    assert answered["key_id"] == key_id
    assert answered["request_id"] == response.headers["x-request-id"]
    assert answered["status"] == 200
    (transcribed,) = lines.events("transcribed")
    assert (transcribed["model"], transcribed["demo"]) == ("fake", False)


def test_every_demo_answer_has_its_log_line(tmp_path: Path, lines: Lines):
    with RunningServer(tmp_path, model="demo") as running:
        running.transcribe(script(text="x"))
        running.client.post("/transcribe", files={"audio": script(text="x")})
        wait_until(lambda: len(lines.events("transcribed_by_demo_model")) == 2)


def test_a_path_cannot_forge_or_flood_a_line(server: RunningServer, lines: Lines):
    server.client.get('/%0A{"event":"forged"}%1b[31m' + "x" * 5000)
    (line,) = wait_until(lambda: lines.events("request"))
    assert len(line["path"]) <= 203
    assert "\x1b" not in lines.text
    assert len(lines.text.splitlines()) == 1


def test_values_are_cut_and_exceptions_fit_on_the_line(lines: Lines):
    logger = logging.getLogger("scribewire.test")
    log_event(logger, logging.INFO, "long", value="x" * 1000, words=["y" * 1000] * 3, nothing=None)
    (event,) = lines.events("long")
    assert len(event["value"]) == 203
    assert all(len(word) == 203 for word in event["words"])
    assert "nothing" not in event
    for number, error in enumerate((ValueError("quotes what was said"), OSError(28, "z\n" * 1000))):
        try:
            raise error
        except (ValueError, OSError):
            logger.exception("failed")
        failed = lines.events("failed")[number]
        assert failed["exception"] == type(error).__name__
        assert failed["frames"][-1].startswith("test_logs.py:")
    assert len(failed["exception_message"]) == 203
    assert "quotes what was said" not in lines.text


def test_text_is_one_plain_line_whatever_it_holds():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLineFormatter())
    logger = logging.getLogger("scribewire.text-lines")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    forged = 'a"b c\n00:00:00 INFO request\x1b[31m\u2028=' + "x" * 500
    log_event(
        logger, logging.INFO, "job", change="completed", count=3, none=None, path=forged, many=["a b", 1]
    )
    (line,) = stream.getvalue().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d INFO    job change=completed count=3 path=\"a", line)
    assert line.isascii()
    assert line.isprintable()
    assert line.count("x") < 250
    assert 'many="[\\"a b\\", 1]"' in line


@pytest.mark.parametrize("shows_ids", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "status", "more"),
    [
        ("POST", "/v1/audio/transcriptions", 200, {}),
        ("GET", f"/jobs/job_{'0' * 32}/result", 409, {"error": "job_not_completed"}),
        ("DELETE", "/" + "x" * 300, 404, {"error": "not_found"}),
        ("POST", "/v1/audio/transcriptions", 500, {"error": "engine_fault"}),
        ("M" * 300, "/a b\x1b", 405, {}),
    ],
)
def test_request_is_a_short_line_with_ids_at_debug_only(
    method: str, path: str, status: int, more: dict[str, str], *, shows_ids: bool
):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLineFormatter(shows_ids=shows_ids))
    logger = logging.getLogger("scribewire.requests-as-text")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    ids = {"request_id": "req_" + "1" * 24, "key_id": "key_" + "2" * 12}
    figures = {"method": method, "path": path, "status": status, "milliseconds": 123456.7}
    log_event(logger, logging.INFO, "request", **ids, **figures, **more)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert line.isascii()
    assert (ids["key_id"] in line) is shows_ids
    assert (ids["request_id"] in line) is (shows_ids or status == 500)
    assert shows_ids or len(line) <= 100
    assert more.get("error", "") in line


@pytest.mark.parametrize("shows_ids", [False, True])
def test_line_of_a_job_has_its_own_id_and_others_at_debug_only(*, shows_ids: bool):
    record = logging.makeLogRecord({"msg": "job", "levelname": "INFO"})
    record.scribewire_event = {
        "change": "submitted",
        "job_id": "job_1",
        "request_id": "req_1",
        "key_id": "key_1",
    }
    line = TextLineFormatter(shows_ids=shows_ids).format(record)
    assert "change=submitted job_id=job_1" in line
    assert ("req_1" in line, "key_1" in line) == (shows_ids, shows_ids)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("text", io.StringIO(), False),
        ("json", Terminal(), True),
    ],
)
def test_people_at_a_terminal_get_text_and_programs_get_json(
    log_format: str, stream: io.StringIO, is_json: bool
):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logging("info", stream, log_format=log_format)
        log_event(logging.getLogger("scribewire.test"), logging.INFO, "hello", number=1)
    finally:
        root.handlers[:], root.level = before, level
    assert stream.getvalue().startswith("{") == is_json


def test_requests_and_changes_of_jobs_are_one_line_each_joined_by_ids(tmp_path: Path, lines: Lines):
    key_id, secret = KeyStore(tmp_path).create("ann")
    headers = {"authorization": f"Bearer {secret}"}
    with RunningServer(tmp_path) as running:
        response = running.client.post("/transcribe", files={"file": script(text="x")}, headers=headers)
        job_id = response.json()["job_id"]
        wait_until(lambda: any(one["change"] == "completed" for one in lines.events("job")))
        running.client.delete(f"/jobs/{job_id}", headers=headers)
        wait_until(lambda: len(lines.events("request")) == 2)
    changes = lines.events("job")
    assert [one["change"] for one in changes] == ["submitted", "processing", "completed", "erased"]
    assert {(one["job_id"], one["key_id"]) for one in changes} == {(job_id, key_id)}
    submitting, erasing = lines.events("request")
    assert submitting["request_id"] == changes[0]["request_id"] == response.headers["x-request-id"]
    assert erasing["request_id"] == changes[-1]["request_id"]
    assert {submitting["job_id"], erasing["job_id"]} == {job_id}
