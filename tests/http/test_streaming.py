"""stream=true over real connections: text as it comes, one end, errors as events, and work that stops in time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from scribewire.engine.protocol.config import ModelInfo
from scribewire.engine.protocol.messages import TextDelta
from scribewire.server.routes.streaming import UNSETTLED_WARNING, TranscriptStream
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import PATIENCE_SECONDS, join, run, wait_until, wait_until_async
from tests.http.openai_shapes import check_error_object, check_stream, parse_events

NEVER_SECONDS = 3600
"""A pause that no test waits for: what comes after it is not needed."""


def event_of(response: httpx.Response) -> list[dict[str, Any]]:
    """All events of a stream that was read to its end."""
    assert response.status_code == 200, response.text
    return parse_events(response.content)[0]


@contextlib.contextmanager
def stream(
    running: RunningServer, recording: bytes, **fields: Any
) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    """A stream on a connection of its own, and its lines as they come."""
    with (
        httpx.Client(base_url=running.url, timeout=30.0) as client,
        client.stream(
            "POST",
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", recording, "application/octet-stream")},
            data={"stream": "true", **fields},
        ) as response,
    ):
        yield response, response.iter_lines()


def next_event(lines: Iterator[str]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (line := next(lines)).startswith("data: "):
        assert time.monotonic() < deadline, "no event, but comments without an end"
    event: dict[str, Any] = json.loads(line[6:])
    return event


def pace(running: RunningServer, **seconds: float) -> None:
    """Give a server other waits for its streams."""
    state = running._server.config.app.state
    state.context = dataclasses.replace(state.context, **seconds)


def test_text_comes_in_deltas_and_is_whole_at_the_end(server: RunningServer):
    response = server.transcribe(
        script(deltas=["Hel", "lo ", "", "Zoë,\n你好 \u2028", "\U0001f600."]), stream="true"
    )
    deltas, done = check_stream(event_of(response))
    assert deltas == ["Hel", "lo ", "Zoë,\n你好 \u2028", "\U0001f600."]
    assert done["languages"] == [{"code": "en"}]
    assert done["usage"]["input_token_details"] == {"audio_tokens": 13, "text_tokens": 9}


def test_headers_keep_proxies_from_holding_events_back(server: RunningServer):
    response = server.transcribe(script(text="Hello."), stream="true")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["x-scribewire-model"] == "fake"
    assert "content-length" not in response.headers


def test_first_delta_is_there_while_the_rest_is_still_being_decoded(server: RunningServer):
    speech = script(deltas=["first", " second"], delta_delay_seconds=NEVER_SECONDS)
    with stream(server, speech) as (response, lines):
        assert response.status_code == 200
        assert next_event(lines) == {"type": "transcript.text.delta", "delta": "first"}
    wait_until(lambda: server.leftovers() == [])


def test_transcript_whose_text_comes_at_once_is_one_delta(server: RunningServer):
    deltas, _ = check_stream(event_of(server.transcribe(script(text="All of it."), stream="true")))
    assert deltas == ["All of it."]


def test_engine_that_sends_no_text_before_the_end_is_told_in_one_delta(server: RunningServer):
    response = server.transcribe(script(deltas=[""], text="All of it."), stream="true")
    deltas, _ = check_stream(event_of(response))
    assert deltas == ["All of it."]


def test_rest_that_no_delta_held_is_sent_before_the_end(server: RunningServer):
    speech = script(deltas=["All"], text="All of it.")
    deltas, _ = check_stream(event_of(server.transcribe(speech, stream="true")))
    assert deltas == ["All", " of it."]


def test_silence_is_an_end_without_deltas(server: RunningServer):
    deltas, done = check_stream(event_of(server.transcribe(script(text="", language=None), stream="true")))
    assert deltas == []
    assert (done["text"], done["languages"]) == ("", [])


@pytest.mark.parametrize("deltas", [["Hello", " there."], []])
def test_logprobs_are_in_every_event_when_included(server: RunningServer, deltas: list[str]):
    speech = script(deltas=deltas, text="Hello there.", token_logprobs=[-0.5, -1.5])
    response = server.transcribe(speech, stream="true", **{"include[]": "logprobs"})
    _, done = check_stream(event_of(response), has_logprobs=True)
    assert [(one["token"], one["logprob"]) for one in done["logprobs"]] == [
        ("Hello", -0.5),
        (" there.", -1.5),
    ]


def test_warnings_are_in_the_last_event(server: RunningServer):
    response = server.transcribe(script(text="Hello.", warnings=["cut off"]), stream="true")
    _, done = check_stream(event_of(response))
    assert done["warnings"] == ["cut off"]


def test_response_format_text_streams_the_same_events(server: RunningServer):
    response = server.transcribe(script(deltas=["a", "b"]), stream="true", response_format="text")
    deltas, _ = check_stream(event_of(response))
    assert deltas == ["a", "b"]


def test_text_that_was_sent_stands_and_a_faulty_engine_is_told_of(server: RunningServer):
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger("scribewire.streams").addHandler(handler)
    try:
        response = server.transcribe(script(deltas=["Good", "bye"], text="Hello."), stream="true")
    finally:
        logging.getLogger("scribewire.streams").removeHandler(handler)
    _, done = check_stream(event_of(response))
    assert done["text"] == "Goodbye"
    assert done["warnings"] == [UNSETTLED_WARNING]
    assert "stream_differs" in written.getvalue()


# ---- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"), [("audio_undecodable", 400), ("engine_fault", 500), ("engine_busy", 429)]
)
def test_what_fails_before_the_first_text_has_a_status_of_its_own(
    server: RunningServer, code: str, status: int
):
    response = server.transcribe(script(fail=code), stream="true")
    assert_openai_error(response, status, code, param="file" if status == 400 else None)
    assert server.leftovers() == []


def test_empty_recording_and_foreign_language_have_a_status_in_a_stream_too(server: RunningServer):
    assert_openai_error(server.transcribe(b"", stream="true"), 400, "audio_empty", param="file")
    response = server.transcribe(script(text="x"), stream="true", language="de")
    assert_openai_error(response, 400, "language_unsupported", param="language")


@pytest.mark.parametrize(
    ("keys", "code", "kind"),
    [
        ({"fail": "engine_fault"}, "engine_fault", "server_error"),
        ({"fail": "audio_truncated"}, "audio_truncated", "invalid_request_error"),
        ({"exit": 3}, "engine_crashed", "server_error"),
    ],
)
def test_what_fails_later_is_the_last_event(tmp_path: Path, keys: dict[str, Any], code: str, kind: str):
    with RunningServer(tmp_path) as running:
        response = running.transcribe(script(deltas=["Hello", " there"], **keys), stream="true")
        *deltas, last = event_of(response)
        assert [delta["delta"] for delta in deltas] == ["Hello", " there"]
        assert set(last) == {"error"}
        check_error_object(last["error"])
        assert (last["error"]["code"], last["error"]["type"]) == (code, kind)
        assert last["error"]["param"] == ("file" if code.startswith("audio_") else None)
        assert running.leftovers() == []


def test_stream_that_takes_too_long_ends_with_an_error(tmp_path: Path):
    speech = script(deltas=["Hello", " there"], delta_delay_seconds=NEVER_SECONDS)
    with RunningServer(tmp_path, request_timeout_seconds=1) as running:
        first, last = event_of(running.transcribe(speech, stream="true"))
        assert first["delta"] == "Hello"
        assert last["error"]["code"] == "request_timeout"
        silent = script(text="x", delay_seconds=NEVER_SECONDS)
        assert_openai_error(running.transcribe(silent, stream="true"), 504, "request_timeout")


def test_stopping_server_ends_its_streams_with_an_error(tmp_path: Path):
    running = RunningServer(tmp_path)
    running.__enter__()
    stopping = threading.Thread(target=running.__exit__, args=(None, None, None))
    speech = script(deltas=["Hello", " there"], delta_delay_seconds=NEVER_SECONDS)
    with stream(running, speech) as (_, lines):
        assert next_event(lines)["delta"] == "Hello"
        stopping.start()
        last = next_event(lines)
        check_error_object(last["error"])
        assert last["error"]["type"] == "server_error"
    join(stopping)


# ---- waiting -------------------------------------------------------------------------------------------------


def test_silence_is_filled_with_comments_once_the_status_is_sent(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        pace(running, stream_first_wait_seconds=0.05, stream_keep_alive_seconds=0.02)
        with stream(running, script(text="x", delay_seconds=NEVER_SECONDS)) as (response, lines):
            assert response.status_code == 200
            heard = [next(lines) for _ in range(10)]
        assert heard == [": keep-alive", ""] * 5


def test_comments_and_events_do_not_disturb_each_other(tmp_path: Path):
    with RunningServer(tmp_path) as running:
        pace(running, stream_first_wait_seconds=0.01, stream_keep_alive_seconds=0.01)
        speech = script(deltas=["a", "b", "c"], delta_delay_seconds=0.2, delay_seconds=0.2)
        events, comments = parse_events(running.transcribe(speech, stream="true").content)
        deltas, _ = check_stream(events)
        assert deltas == ["a", "b", "c"]
        assert set(comments) == {": keep-alive"}


# ---- clients that leave --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"deltas": ["first", "second"], "delta_delay_seconds": NEVER_SECONDS},
        {"deltas": ["first"] * 100_000, "delta_delay_seconds": 0.001},
    ],
    ids=["silent", "busy"],
)
def test_client_that_leaves_in_mid_stream_stops_the_work(tmp_path: Path, keys: dict[str, Any]):
    with RunningServer(tmp_path, max_queued_requests=1) as running:
        with stream(running, script(**keys)) as (_, lines):
            next_event(lines)
            # The one place is taken.
            assert running.transcribe(script(text="second")).status_code == 429
        wait_until(lambda: running.transcribe(script(text="second")).status_code == 200)
        wait_until(lambda: running.leftovers() == [])


@pytest.mark.parametrize("stream_field", ["true", "false"])
def test_client_that_leaves_before_the_status_stops_the_work(tmp_path: Path, stream_field: str):
    with RunningServer(tmp_path, max_queued_requests=1) as running:
        pace(running, stream_first_wait_seconds=NEVER_SECONDS)
        leave(running, script(text="x", delay_seconds=NEVER_SECONDS), stream=stream_field)
        wait_until(lambda: running.transcribe(script(text="second")).status_code == 200)
        wait_until(lambda: running.leftovers() == [])


def leave(running: RunningServer, recording: bytes, **fields: str) -> None:
    """Upload a recording whole, and go away once the server works on it."""
    answers: list[int] = []

    async def upload() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=NEVER_SECONDS) as client:
            response = await client.post("/v1/audio/transcriptions", files={"file": recording}, data=fields)
            answers.append(response.status_code)

    async def upload_and_leave() -> None:
        uploading = asyncio.create_task(upload())
        await wait_until_async(lambda: running.engine.held_count or uploading.done())
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)

    run(upload_and_leave())
    assert answers == []


def test_client_that_takes_nothing_is_treated_as_gone():
    released, sent = [], []

    async def events():
        yield TextDelta("", "Hello")
        await asyncio.Event().wait()

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # the connection's buffers are full

    async def serve() -> Request:
        request = Request({"type": "http", "headers": [], "state": {"request_id": "req_1"}}, receive)
        async with contextlib.AsyncExitStack() as held:
            held.callback(lambda: released.append(True))
            response = TranscriptStream(
                request,
                events(),
                ModelInfo("fake", False, (), "none", "none", 16, 0, 0, 0.0),
                held=held.pop_all(),
                more_headers={},
                wants_logprobs=False,
                wants_segments=False,
                timeout_seconds=NEVER_SECONDS,
                first_wait_seconds=NEVER_SECONDS,
                keep_alive_seconds=NEVER_SECONDS,
                stalled_client_seconds=0.05,
            )
        assert released == []
        await asyncio.wait_for(response(request.scope, receive, send), 30)
        return request

    request = run(serve())
    assert sent == ["http.response.start", "http.response.body"]
    assert released == [True], "the work is left"
    assert request.state.client_gone
