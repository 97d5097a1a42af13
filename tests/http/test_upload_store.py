"""The upload store by itself: full disks, slow clients, places, digests, and what is left when a server is stopped."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from starlette.requests import Request

from scribewire.server.access.limits import KeyLimits
from scribewire.server.http.errors import ApiError, error_response
from scribewire.server.intake.receiving import UploadPace
from scribewire.server.intake.uploads import UploadStore
from tests.fakes.running_server import script
from tests.fakes.waiting import run, wait_until_async
from tests.http.test_uploads import BOUNDARY, form, in_pieces, part

SPEECH = script(text="Hello.")


def test_full_disk_is_507_and_leaves_nothing(tmp_path: Path):
    written = 0

    def write_until_full(descriptor: int, data: bytes) -> int:
        nonlocal written
        if written + len(data) > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data)
        return os.write(descriptor, data)

    body = form(part("file", b"x" * 5_000_000, "a"))
    refusal = run(receive_directly(tmp_path, body, write_until_full))
    assert (refusal.rule.status, refusal.code) == (507, "disk_full")
    assert refusal.rule.should_retry is False
    assert [path for path in tmp_path.rglob("*") if path.name == "recording"] == []


def test_disk_that_is_full_is_507_before_a_byte_of_an_upload_of_unknown_length(tmp_path: Path):
    free = (1 << 20) - 1
    store = UploadStore(
        tmp_path,
        max_upload_bytes=1 << 30,
        max_concurrent_uploads=1,
        idle_seconds=30,
        free_bytes=lambda _: free,
    )
    store.open()

    async def never_receive():
        raise AssertionError("the body was read")

    content_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
    unread = Request({"type": "http", "headers": [(b"content-type", content_type)]}, never_receive)
    with pytest.raises(ApiError) as refused:
        run(store.receive(unread, file_fields=("file",)))
    assert (refused.value.rule.status, refused.value.code) == (507, "disk_full")
    # The next one comes when there is room again.
    free = 1 << 30
    upload = run(store.receive(whole_request(form(part("file", SPEECH))), file_fields=("file",)))
    assert upload.path.read_bytes() == SPEECH
    store.close()


def test_place_goes_along_with_a_recording_that_is_handed_on(tmp_path: Path):
    limits = KeyLimits(queued_recordings=1)
    store = UploadStore(
        tmp_path, max_upload_bytes=1000, max_concurrent_uploads=1, idle_seconds=30, limits=limits
    )
    store.open()
    receive = partial(store.receive, file_fields=("file",))
    upload = run(receive(whole_request(form(part("file", SPEECH)))))
    moved = upload.path.parent.with_name("moved")
    upload.path.parent.rename(moved)
    run(upload.delete())
    with pytest.raises(ApiError, match="unfinished"):
        run(receive(whole_request(form(part("file", SPEECH)))))
    run(replace(upload, path=moved / upload.path.name).delete())
    run(run(receive(whole_request(form(part("file", SPEECH))))).delete())
    store.close()


def test_recording_is_removed_by_another_thread_than_the_event_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = UploadStore(tmp_path, max_upload_bytes=1000, max_concurrent_uploads=1, idle_seconds=30)
    store.open()
    threads: list[threading.Thread] = []

    def remove(folder: Path, **options: bool) -> None:
        threads.append(threading.current_thread())
        removed(folder, **options)

    async def story() -> None:
        upload = await store.receive(whole_request(form(part("file", SPEECH))), file_fields=("file",))
        async with upload:
            monkeypatch.setattr(shutil, "rmtree", remove)
        assert not upload.path.parent.exists()

    removed = shutil.rmtree
    run(story())
    monkeypatch.undo()
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    store.close()


async def receive_directly(data: Path, body: bytes, write) -> ApiError:
    store = UploadStore(data, max_upload_bytes=1 << 30, max_concurrent_uploads=4, idle_seconds=5, write=write)
    store.open()
    with pytest.raises(ApiError) as refused:
        await store.receive(whole_request(body), file_fields=("file",))
    store.close()
    return refused.value


class Trickle:
    """A client as `receive` sees it: a piece whenever one is asked for, and never the last one."""

    def __init__(self, piece: bytes) -> None:
        self._pieces = [part("file", b"x" * 10)[:-2], piece]
        self.asked = 0

    async def __call__(self) -> dict[str, object]:
        self.asked += 1
        await asyncio.sleep(0)
        piece = self._pieces.pop(0) if len(self._pieces) > 1 else self._pieces[0]
        return {"type": "http.request", "body": piece, "more_body": True}

    def request(self) -> Request:
        content_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
        return Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type)]}, self)


def test_upload_that_trickles_is_dropped_though_it_never_falls_silent(tmp_path: Path):
    store = UploadStore(
        tmp_path,
        max_upload_bytes=1 << 30,
        max_concurrent_uploads=1,
        idle_seconds=30,
        min_bytes_per_second=1 << 40,  # of which single bytes fall short, however fast they come
        rate_window_seconds=0.01,
    )
    store.open()
    with pytest.raises(ApiError) as refused:
        run(store.receive(Trickle(b"y").request(), file_fields=("file",)))
    assert (refused.value.rule.status, refused.value.code) == (408, "upload_stalled")
    store.close()


def test_speed_is_measured_over_every_window_and_silence_since_the_last_piece():
    def pace() -> UploadPace:
        return UploadPace(idle_seconds=4, min_bytes_per_second=100, window_seconds=10, is_scarce=lambda: True)

    steady = pace()
    for _ in range(100):
        steady.count(1.0, 100)
    slow = pace()
    for _ in range(9):
        slow.count(1.0, 99)
    with pytest.raises(ApiError, match="fewer than 100 bytes"):
        slow.count(1.0, 99)
    # A fast beginning buys nothing later.
    tired = pace()
    tired.count(10.0, 1_000_000)
    with pytest.raises(ApiError, match="fewer than 100 bytes"):
        tired.count(10.0, 999)
    # Waiting is counted whether or not it ended with a piece, and never longer than either bound.
    silent = pace()
    silent.count(9.0, 1_000_000)
    assert silent.patience_seconds() == 1.0
    silent.count(1.0, None)
    assert silent.patience_seconds() == 3.0
    with pytest.raises(ApiError, match="nothing for 4 s"):
        silent.count(3.0, None)
    # Half of one window and half of the next may be uneven.
    bursty = pace()
    for _ in range(5):
        bursty.count(3.9, 2000)
        bursty.count(3.9, 1)


def test_slow_upload_is_taken_in_quiet_times_and_judged_anew_when_places_become_scarce():
    is_scarce = False
    pace = UploadPace(
        idle_seconds=10, min_bytes_per_second=16_384, window_seconds=10, is_scarce=lambda: is_scarce
    )
    for _ in range(60):
        pace.count(1.0, 4_000)  # live Opus, for a minute
    is_scarce = True
    for _ in range(9):
        pace.count(1.0, 4_000)
    with pytest.raises(ApiError, match="while places were scarce"):
        pace.count(1.0, 4_000)


def test_window_in_which_places_were_scarce_is_judged_though_they_are_free_at_its_end():
    """Of many slow uploads all go, not only as many as make the rest fit."""
    answers = iter([False, False, True, False, False])
    pace = UploadPace(
        idle_seconds=10, min_bytes_per_second=100, window_seconds=3, is_scarce=lambda: next(answers)
    )
    pace.count(1.0, 1)
    pace.count(1.0, 1)
    with pytest.raises(ApiError, match="fewer than 100 bytes"):
        pace.count(1.0, 1)


def test_places_are_scarce_when_half_of_them_are_taken(tmp_path: Path):
    """The same two slow uploads, where they take half of the places and where they do not."""

    async def outcome(places: int) -> set[str]:
        store = UploadStore(
            tmp_path / str(places),
            max_upload_bytes=1 << 30,
            max_concurrent_uploads=places,
            idle_seconds=30,
            min_bytes_per_second=1 << 40,
            rate_window_seconds=0.01,
        )
        store.open()
        trickles = [Trickle(b"y") for _ in range(2)]
        uploads = [
            asyncio.create_task(store.receive(trickle.request(), file_fields=("file",)))
            for trickle in trickles
        ]
        # Far more than a window's worth of waiting for either client.
        await wait_until_async(
            lambda: all(
                task.done() or trickle.asked > 10_000 for task, trickle in zip(uploads, trickles, strict=True)
            )
        )
        ended = {"408" if task.done() else "received" for task in uploads}
        for task in uploads:
            task.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)
        store.close()
        return ended

    assert run(outcome(places=4)) == {"408"}
    assert run(outcome(places=5)) == {"received"}


@pytest.mark.parametrize(
    ("max_json_body_bytes", "at_once"), [(40 << 20, 3), (64 << 20, 2), (100 << 20, 1), (1 << 30, 1)]
)
def test_json_is_parsed_128_mebibytes_at_a_time_and_what_waits_too_long_is_503(
    tmp_path: Path, max_json_body_bytes: int, at_once: int
):
    may_go_on = threading.Event()
    begun: list[int] = []

    def slow_write(descriptor: int, data: bytes) -> int:
        if bytes(data[:4]) == b"wait":
            begun.append(descriptor)
            may_go_on.wait(60)
        return os.write(descriptor, data)

    async def story() -> None:
        store = UploadStore(
            tmp_path,
            max_upload_bytes=1 << 20,
            max_json_body_bytes=max_json_body_bytes,
            max_concurrent_uploads=8,
            idle_seconds=30,
            parsing_wait_seconds=0.05,
            write=slow_write,
        )
        store.open()
        receive = partial(store.receive, file_fields=("file",))
        slow = [asyncio.create_task(receive(json_request(b"wait"))) for _ in range(at_once)]
        await wait_until_async(lambda: len(begun) == at_once)
        # The next one is told to come again, and leaves nothing.
        with pytest.raises(ApiError) as refused:
            await receive(json_request(b"next"))
        assert (refused.value.rule.status, refused.value.code) == (503, "too_much_json")
        assert error_response(refused.value).headers["retry-after"] == "5"
        assert len(list(tmp_path.glob("uploads/server-*/*/recording"))) == at_once
        may_go_on.set()
        for upload in await asyncio.gather(*slow):
            assert [path.name for path in upload.path.parent.iterdir()] == ["recording"]
            await upload.delete()
        await (await receive(json_request(b"next"))).delete()
        assert list(tmp_path.glob("uploads/server-*/*/*")) == []
        store.close()

    run(story())


def json_request(recording: bytes) -> Request:
    body = json.dumps({"input_audio": {"data": base64.b64encode(recording).decode()}}).encode()

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def test_sha256_is_that_of_the_recording(tmp_path: Path):
    recording = os.urandom(2_500_000)
    store = upload_store(tmp_path, max_upload_bytes=3_000_000)
    store.open()
    upload = run(store.receive(whole_request(form(part("file", recording))), file_fields=("file",)))
    assert upload.sha256 == hashlib.sha256(recording).hexdigest()
    assert upload.path.read_bytes() == recording
    assert upload.size_bytes == len(recording)
    store.close()


def test_stop_in_the_middle_of_a_write_closes_the_file_only_after_the_write(tmp_path: Path):
    """A descriptor closed under a writing thread may be another upload's by the time it is written to."""
    is_writing, may_go_on = threading.Event(), threading.Event()
    written_to = []

    def slow_write(descriptor: int, data: bytes) -> int:
        is_writing.set()
        may_go_on.wait(30)
        written_to.append(os.fstat(descriptor).st_mode)
        return os.write(descriptor, data)

    async def cancel_while_writing() -> None:
        store = UploadStore(
            tmp_path, max_upload_bytes=1 << 30, max_concurrent_uploads=1, idle_seconds=30, write=slow_write
        )
        store.open()
        request = whole_request(form(part("file", b"x" * 5_000_000)))
        receiving = asyncio.create_task(store.receive(request, file_fields=("file",)))
        await asyncio.to_thread(is_writing.wait, 30)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        before = len(os.listdir("/dev/fd"))
        may_go_on.set()
        await wait_until_async(lambda: len(os.listdir("/dev/fd")) < before)
        store.close()

    run(cancel_while_writing())
    assert written_to
    assert list(tmp_path.rglob("recording")) == []


def whole_request(body: bytes) -> Request:
    pieces = list(in_pieces(body, 65536))

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    content_type = f"multipart/form-data; boundary={BOUNDARY}".encode()
    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type)]}, receive)


def upload_store(data: Path, *, max_upload_bytes: int = 1000) -> UploadStore:
    return UploadStore(data, max_upload_bytes=max_upload_bytes, max_concurrent_uploads=4, idle_seconds=5)


def test_leftovers_of_a_killed_server_are_swept_and_those_of_a_living_one_are_not(tmp_path: Path):
    killed = tmp_path / "uploads" / "server-killed" / "request"
    killed.mkdir(parents=True)
    (killed / "recording").write_bytes(b"private")
    living = upload_store(tmp_path)
    assert living.open() == 1
    assert not killed.exists()
    (own,) = (tmp_path / "uploads").glob("server-*")
    (own / "request").mkdir()
    second = upload_store(tmp_path)
    assert second.open() == 0
    assert (own / "request").is_dir()
    living.close()
    assert not own.exists()
    second.close()
