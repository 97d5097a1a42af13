"""Limits per key: counted exactly under races, and never for reading."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.access.limits import KeyLimits, Lease, StreamLimits
from scribewire.server.http.errors import ApiError
from scribewire.server.http.listening import RESERVED_DESCRIPTORS, SPARE_CONNECTIONS, connection_cap
from scribewire.server.settings.fields import Settings
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until

SPEECH = script(text="Hello.")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(limits: KeyLimits, owner: str = "ann") -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.admit(owner)
    assert caught.value.rule.status == 429
    return caught.value


def test_requests_of_a_minute_are_counted_over_any_sixty_seconds():
    clock = Clock()
    limits = KeyLimits(requests_per_minute=2, monotonic=clock)
    limits.admit("ann").release()
    clock.now += 30
    limits.admit("ann").release()
    refusal = refused(limits)
    assert refusal.code == "key_rate_exceeded"
    assert refusal.rule.retry_after_seconds == 30
    assert refusal.headers["retry-after-ms"] == "30000"
    limits.admit("bob").release()
    clock.now += 30
    limits.admit("ann").release()
    assert refused(limits).rule.retry_after_seconds == 30


def test_refused_requests_count_for_nothing():
    clock = Clock()
    limits = KeyLimits(requests_per_minute=1, concurrent_uploads=1, monotonic=clock)
    place = limits.admit("ann")
    for _ in range(10):
        assert refused(limits).code == "key_uploads_exceeded"
    place.release()
    clock.now += 60
    limits.admit("ann")


def test_place_is_given_back_once_however_often_it_is_released():
    limits = KeyLimits(concurrent_uploads=2, queued_recordings=3)
    first, second = limits.admit("ann"), limits.admit("ann")
    assert refused(limits).code == "key_uploads_exceeded"
    for _ in range(3):
        first.end_upload()
    third = limits.admit("ann")
    assert refused(limits).code == "key_uploads_exceeded"
    third.end_upload()
    assert refused(limits).code == "key_queue_full"
    for place in (first, second, third):
        for _ in range(3):
            place.release()
    assert limits._usage == {}


def test_racing_threads_get_exactly_as_many_places_as_there_are():
    limits = KeyLimits(queued_recordings=7)
    start = threading.Barrier(16)

    def try_often() -> list[Lease]:
        start.wait(PATIENCE_SECONDS)
        places = []
        for _ in range(50):
            try:
                places.append(limits.admit("ann"))
            except ApiError:
                continue
        return places

    with ThreadPoolExecutor(16) as pool:
        results = [pool.submit(try_often) for _ in range(16)]
        places = [place for result in results for place in result.result(PATIENCE_SECONDS)]
    assert len(places) == 7
    for place in places:
        place.release()
    assert limits._usage == {}


def head_of_upload(port: int, secret: str = "") -> bytes:
    authorization = f"Authorization: Bearer {secret}\r\n" if secret else ""
    return (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{authorization}"
        "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    ).encode()


def begun_upload(running: RunningServer, secret: str = "") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx'
    connection.sendall(head_of_upload(running.port, secret) + b"%x\r\n" % len(part) + part + b"\r\n")
    return connection


def test_every_refusal_of_a_limit_comes_before_a_byte_of_the_body(tmp_path: Path):
    with RunningServer(tmp_path, key_requests_per_minute=1) as running:
        assert running.transcribe(SPEECH).status_code == 200
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            connection.sendall(head_of_upload(running.port))
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in answer
        assert b"retry-after-ms: " in answer
        response = running.transcribe(SPEECH)
        assert_openai_error(response, 429, "key_rate_exceeded")
        assert 0 < int(response.headers["retry-after"]) <= 60
        for _ in range(5):
            assert running.client.get("/v1/models").status_code == 200
            assert running.client.get("/jobs/none").status_code == 404


def test_one_keys_uploads_leave_room_for_anothers(tmp_path: Path):
    _, ann = KeyStore(tmp_path).create("ann")
    _, bob = KeyStore(tmp_path).create("bob")
    with RunningServer(tmp_path, key_concurrent_uploads=2) as running:
        connections = [begun_upload(running, ann) for _ in range(2)]
        wait_until(lambda: len(running.leftovers()) == 2)
        response = running.transcribe(SPEECH, headers={"authorization": f"Bearer {ann}"})
        assert_openai_error(response, 429, "key_uploads_exceeded")
        assert int(response.headers["retry-after-ms"]) > 0
        assert running.transcribe(SPEECH, headers={"authorization": f"Bearer {bob}"}).status_code == 200
        for connection in connections:
            connection.close()
        wait_until(lambda: not running.leftovers())
        assert running.transcribe(SPEECH, headers={"authorization": f"Bearer {ann}"}).status_code == 200


def test_unfinished_recordings_count_whether_waited_for_or_submitted_as_jobs(tmp_path: Path):
    gate = tmp_path / "gate"
    with (
        RunningServer(tmp_path / "data", key_queued_recordings=2) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        held, other = (script(gate=str(gate), text=text) for text in ("job", "sync"))
        job = running.client.post("/transcribe", files={"file": held}).json()
        impatient = httpx.Client(base_url=running.url, timeout=30)
        pool.submit(impatient.post, "/v1/audio/transcriptions", files={"file": other})
        wait_until(lambda: len(running.leftovers()) == 2)
        assert_openai_error(running.transcribe(SPEECH), 429, "key_queue_full")
        assert_openai_error(running.client.post("/transcribe", files={"file": SPEECH}), 429, "key_queue_full")
        assert running.client.get(f"/jobs/{job['job_id']}").status_code == 200
        gate.touch()
        wait_until(lambda: running.client.get(f"/jobs/{job['job_id']}").json()["status"] == "completed")
        wait_until(lambda: running.transcribe(SPEECH).status_code == 200)
        impatient.close()


def test_racing_requests_never_exceed_the_limit(tmp_path: Path):
    with RunningServer(tmp_path, key_requests_per_minute=5) as running, ThreadPoolExecutor(20) as pool:
        # Clients of their own, and all at once: none may slip in between a check and its count.
        def submit() -> int:
            with httpx.Client(base_url=running.url, timeout=30) as client:
                return client.post("/v1/audio/transcriptions", files={"file": SPEECH}).status_code

        statuses = [future.result(PATIENCE_SECONDS) for future in [pool.submit(submit) for _ in range(20)]]
    assert sorted(statuses) == [200] * 5 + [429] * 15


def test_connections_fit_the_descriptors_and_leave_some():
    settings = Settings(max_connections=1024, max_concurrent_uploads=64)
    assert connection_cap(settings, 4096) == 1024
    assert connection_cap(settings, 256) + 64 + RESERVED_DESCRIPTORS + SPARE_CONNECTIONS == 256
    assert connection_cap(settings, 100) == 8


# ---- event streams ------------------------------------------------------------------------------------------------


def test_streams_of_one_client_and_of_all_are_bounded_and_a_place_is_free_when_one_ends():
    limits = StreamLimits(32)
    held = contextlib.ExitStack()
    for client in ("ann", "bob", "cy", "dee"):
        for _ in range(4):
            held.enter_context(limits.hold(client))
        if client != "dee":
            with pytest.raises(ApiError) as of_one, limits.hold(client):
                pass
            assert (of_one.value.rule.status, of_one.value.code) == (429, "key_streams_exceeded")
            assert of_one.value.rule.retry_after_seconds == 5
    with pytest.raises(ApiError) as of_all, limits.hold("eve"):
        pass
    assert (of_all.value.rule.status, of_all.value.code) == (503, "too_many_streams")
    assert of_all.value.rule.retry_after_seconds == 5
    held.close()
    with limits.hold("ann"), limits.hold("eve"):
        pass


def test_streams_of_one_client_may_be_set():
    limits = StreamLimits(32, of_one=1)
    with limits.hold("ann"), pytest.raises(ApiError), limits.hold("ann"):
        pass


def opened_stream(
    running: RunningServer, held: contextlib.ExitStack, path: str, **request: Any
) -> httpx.Response:
    client = held.enter_context(httpx.Client(base_url=running.url, timeout=PATIENCE_SECONDS))
    method = "POST" if "files" in request else "GET"
    return held.enter_context(client.stream(method, path, **request))


@pytest.mark.parametrize("kind", ["events of a job", "stream=true"])
def test_event_streams_of_one_key_leave_connections_to_others(tmp_path: Path, kind: str):
    keys = [KeyStore(tmp_path).create(name)[1] for name in ("ann", "bob")]
    ann, bob = ({"authorization": f"Bearer {key}"} for key in keys)
    gate = tmp_path / "gate"
    with RunningServer(tmp_path, key_streams=2) as running, contextlib.ExitStack() as held:
        slow = script(text="x", partials=["x"], gate=str(gate))
        if kind == "stream=true":
            path, request = "/v1/audio/transcriptions", {"files": {"file": slow}, "data": {"stream": "true"}}
        else:
            jobs = [
                running.client.post("/transcribe", files={"audio": slow}, headers=headers).json()["job_id"]
                for headers in (ann, bob)
            ]
            path, request = f"/jobs/{jobs[0]}/events", {}
        streams = [opened_stream(running, held, path, headers=ann, **request) for _ in range(2)]
        assert [stream.status_code for stream in streams] == [200, 200]
        third = opened_stream(running, held, path, headers=ann, **request)
        third.read()
        assert_openai_error(third, 429, "key_streams_exceeded")
        assert third.headers["retry-after"] == "5"
        # Another key's streams, and this key's other requests, are not concerned.
        if kind == "events of a job":
            path = f"/jobs/{jobs[1]}/events"
        assert opened_stream(running, held, path, headers=bob, **request).status_code == 200
        assert running.transcribe(SPEECH, headers=ann).status_code == 200
        gate.touch()
        for stream in streams:
            stream.read()
        path = "/v1/models" if kind == "stream=true" else f"/jobs/{jobs[0]}/events"
        wait_until(lambda: opened_stream(running, held, path, headers=ann).status_code == 200)


def test_event_streams_count_by_address_where_no_key_is_required(tmp_path: Path):
    with RunningServer(tmp_path, key_streams=1) as running, contextlib.ExitStack() as held:
        slow = script(text="x", gate=str(tmp_path / "gate"))
        job_id = running.client.post("/transcribe", files={"audio": slow}).json()["job_id"]
        first = opened_stream(running, held, f"/jobs/{job_id}/events")
        assert first.status_code == 200
        assert running.client.get(f"/jobs/{job_id}/events").status_code == 429
        first.close()
        wait_until(lambda: opened_stream(running, held, f"/jobs/{job_id}/events").status_code == 200)
