"""Clients that go away, and clients that come again: what becomes of their work, their file and their place."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.transcode.process import TranscodedRecording
from scribewire.server.transcription.sharing import RETRY_HEADER
from tests.fakes.pass_through import PassThrough
from tests.fakes.running_server import assert_openai_error, script
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until
from tests.fakes.watched_server import WatchedServer, send

LONG = script(text="late", delay_seconds=600)
BOTH_WAYS = pytest.mark.parametrize("stream", ["false", "true"], ids=["plain", "stream"])


class StuckTranscoder(PassThrough):
    """Never gets round to a recording, as one that waits for a free child."""

    def __init__(self) -> None:
        self.waiting = 0
        self.given_up = 0

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
            self.given_up += 1
        raise AssertionError("never set")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    with WatchedServer(tmp_path_factory.mktemp("data")) as running:
        yield running
        assert running.is_clean()


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """Read up to the end of the piece in which the wanted words end."""
    answer = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while wanted not in answer or not answer.endswith(b"\n"):
        assert time.monotonic() < deadline, f"{wanted!r} does not come after {answer!r}"
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {answer!r}"
        answer += piece
    return answer


def deltas_of(events: str) -> tuple[list[str], str]:
    """The deltas of a stream and the text of its last event."""
    bodies = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    assert bodies[-1]["type"] == "transcript.text.done"
    return [body["delta"] for body in bodies[:-1]], bodies[-1]["text"]


@BOTH_WAYS
def test_client_that_leaves_stops_its_work_in_the_worker(tmp_path: Path, stream: str):
    with WatchedServer(tmp_path, max_queued_requests=1) as running:
        connection = send(running, LONG, stream=stream)
        wait_until(lambda: running.engine.started_count() == 1)
        assert_openai_error(running.transcribe(script(text="x")), 429, "engine_busy")
        connection.close()
        wait_until(lambda: running.engine.cancelled_count() == 1)
        wait_until(running.is_clean)
        assert running.transcribe(script(text="x")).status_code == 200, "its place is free again"


def test_client_that_leaves_its_stream_half_way_stops_its_work(watched: WatchedServer):
    cancelled = watched.engine.cancelled_count()
    connection = send(watched, script(deltas=["Hello", " there"], delta_delay_seconds=600), stream="true")
    read_until(connection, b"Hello")
    connection.close()
    wait_until(lambda: watched.engine.cancelled_count() == cancelled + 1)
    wait_until(watched.is_clean)


@BOTH_WAYS
def test_client_that_leaves_while_queued_is_never_begun(tmp_path: Path, stream: str):
    transcoder = StuckTranscoder()
    with WatchedServer(tmp_path, transcoder=transcoder) as running:
        connection = send(running, LONG, stream=stream)
        wait_until(lambda: transcoder.waiting == 1)
        connection.close()
        wait_until(lambda: transcoder.given_up == 1)
        wait_until(running.is_clean)
        assert running.engine.started_count() == 0


@BOTH_WAYS
def test_client_that_leaves_while_the_model_loads_leaves_nothing(tmp_path: Path, stream: str):
    """Its recording is not even read before the model is ready; its place is free when the wait for that is over."""
    slow = {"model": "fake:load_seconds=600", "restart_wait_seconds": 0.5}
    with WatchedServer(tmp_path, wait_ready=False, **slow) as running:
        connection = send(running, LONG, stream=stream)
        wait_until(lambda: running.engine.admitted == 1)
        connection.close()
        wait_until(running.is_clean)
        assert running.context.uploads.under_way == running.context.uploads.received_count == 0


def test_many_that_leave_at_once_leave_nothing(watched: WatchedServer):
    started, cancelled = watched.engine.started_count(), watched.engine.cancelled_count()
    connections = [
        send(watched, script(text=str(number), delay_seconds=600), stream=("false", "true")[number % 2])
        for number in range(20)
    ]
    wait_until(lambda: watched.engine.started_count() == started + 20)
    for connection in connections:
        connection.close()
    wait_until(lambda: watched.engine.cancelled_count() == cancelled + 20)
    wait_until(watched.is_clean)


def test_retry_takes_the_finished_result_in_any_format(watched: WatchedServer):
    recording = script(text="Once only.", partials=["Once", "only."])
    first = watched.transcribe(recording, response_format="verbose_json", model="whisper-1")
    assert RETRY_HEADER not in first.headers
    started = watched.engine.started_count()
    for fields in ({"response_format": "verbose_json"}, {"model": "fake"}, {"response_format": "text"}):
        retried = watched.transcribe(recording, **fields)
        assert retried.headers[RETRY_HEADER] == "finished"
        assert "Once only." in retried.text
    assert watched.transcribe(recording, response_format="verbose_json").json() == first.json()
    streamed = watched.transcribe(recording, stream="true")
    assert streamed.headers[RETRY_HEADER] == "finished"
    assert deltas_of(streamed.text) == (["Once only."], "Once only.")
    assert watched.engine.started_count() == started


def test_other_parameters_are_decoded_anew(watched: WatchedServer):
    recording = script(echo_options=True)
    prompts = [
        json.loads(watched.transcribe(recording, prompt=prompt).json()["text"])["prompt"] for prompt in "ab"
    ]
    assert prompts == ["a", "b"]


def test_failed_work_is_tried_again(watched: WatchedServer):
    recording = script(fail="engine_crashed")
    for _ in range(2):
        started = watched.engine.started_count()
        assert_openai_error(watched.transcribe(recording), 503, "engine_crashed")
        assert watched.engine.started_count() == started + 1


def test_retry_joins_running_work_that_outlives_the_first_connection(watched: WatchedServer):
    started, cancelled = watched.engine.started_count(), watched.engine.cancelled_count()
    recording = script(deltas=["One", " two"], delta_delay_seconds=3)
    first = send(watched, recording, stream="true")
    read_until(first, b"One")
    second = send(watched, recording, stream="true")
    begun = read_until(second, b"One")
    first.close()
    answer = begun + read_until(second, b"transcript.text.done")
    assert f"{RETRY_HEADER}: joined".encode() in answer.lower()
    deltas, text = deltas_of(answer.decode())
    assert (deltas, text) == (["One", " two"], "One two")
    assert watched.engine.started_count() == started + 1
    assert watched.engine.cancelled_count() == cancelled
    second.close()


def test_result_is_not_shown_to_another_key(tmp_path: Path):
    keys = KeyStore(tmp_path)
    ann, bob = ({"authorization": f"Bearer {keys.create(name)[1]}"} for name in ("ann", "bob"))
    recording = script(text="Private.")
    with WatchedServer(tmp_path) as running:
        retries = [
            running.transcribe(recording, headers=key).headers.get(RETRY_HEADER)
            for key in (ann, bob, ann, bob)
        ]
        assert retries == [None, None, "finished", "finished"]
        assert running.engine.started_count() == 2


def test_window_of_zero_decodes_every_upload(tmp_path: Path):
    with WatchedServer(tmp_path, retry_window_seconds=0) as running:
        for _ in range(2):
            assert RETRY_HEADER not in running.transcribe(script(text="x")).headers
        assert running.engine.started_count() == 2


def test_stop_tells_those_who_share_a_stream(tmp_path: Path):
    recording = script(deltas=["One", " two"], delta_delay_seconds=600)
    with WatchedServer(tmp_path, drain_seconds=0) as running:
        connections = [send(running, recording, stream="true") for _ in range(2)]
        for connection in connections:
            read_until(connection, b"One")
        stopping = threading.Thread(target=running.__exit__, args=(None, None, None))
        stopping.start()
        for connection in connections:
            assert b'"error"' in read_until(connection, b"data: ")
            connection.close()
        stopping.join(30)
        assert running.engine.started_count() == 1
