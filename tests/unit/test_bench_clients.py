"""Closed-loop clients against a server that only counts: how many at once, how many in all, and what fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.engine.bench.audio import distinct_clips, wav_seconds, write_long_wav
from scribewire.engine.bench.serving import Caller, RequestFailed, ServerAddress, closed_loop, multipart
from tests.fakes.counting_server import CountingServer, counting_server


@pytest.fixture
def server() -> Iterator[tuple[CountingServer, ServerAddress]]:
    with counting_server() as (counting, address):
        yield counting, ServerAddress("counting", address, "key-1", {"model": "m"})


def clip(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"RIFF")
    return path


def test_as_many_requests_are_under_way_as_there_are_clients(
    server: tuple[CountingServer, ServerAddress], tmp_path: Path
) -> None:
    counting, address = server
    counting.wanted_at_once = 4
    load = closed_loop(address, [clip(tmp_path, "a.wav")], 4, 12, warm_up=False)
    assert (counting.most, counting.answered) == (4, 12)
    assert len(load.latencies) == 12
    assert load.requests_per_second == pytest.approx(12 / load.wall_seconds)
    assert load.values()["p50_seconds"] <= load.values()["p95_seconds"] <= load.values()["max_seconds"]
    assert counting.keys == {"Bearer key-1"}


def test_warm_up_requests_do_not_count(server: tuple[CountingServer, ServerAddress], tmp_path: Path) -> None:
    counting, address = server
    clips = [clip(tmp_path, f"{index}.wav") for index in range(3)]
    load = closed_loop(address, clips, 3, 5)
    assert len(load.latencies) == 5
    assert counting.answered == 8
    assert set(counting.order) == {"0.wav", "1.wav", "2.wav"}


def test_a_round_and_its_warm_up_last_as_long_as_asked(
    server: tuple[CountingServer, ServerAddress], tmp_path: Path
) -> None:
    counting, address = server
    load = closed_loop(address, [clip(tmp_path, "a.wav")], 2, 3, seconds=0.2)
    assert load.wall_seconds >= 0.2
    assert len(load.latencies) >= 3
    # At least one more of each client before it counts.
    assert counting.answered >= len(load.latencies) + 2
    short = closed_loop(address, [clip(tmp_path, "a.wav")], 2, 3, warm_up=False)
    assert len(short.latencies) == 3


def test_a_refused_request_ends_the_loop_with_the_servers_words(
    server: tuple[CountingServer, ServerAddress], tmp_path: Path
) -> None:
    counting, address = server
    counting.status = 503
    with pytest.raises(RequestFailed, match="counting answered 503"):
        closed_loop(address, [clip(tmp_path, "a.wav")], 3, 50)
    assert counting.answered <= 6


def test_a_server_that_is_gone_is_a_failure_and_not_a_hang(tmp_path: Path) -> None:
    caller = Caller(ServerAddress("nobody", "127.0.0.1:9", "key"))
    with pytest.raises(RequestFailed, match="nobody"):
        caller.transcribe(clip(tmp_path, "a.wav"))


def test_the_form_carries_the_file_and_every_field(tmp_path: Path) -> None:
    body, content_type = multipart(clip(tmp_path, "a.wav"), {"model": "m", "response_format": "json"})
    boundary = content_type.split("boundary=")[1].encode()
    assert body.count(b"--" + boundary) == 4
    assert b'name="response_format"\r\n\r\njson\r\n' in body
    assert b"Content-Type: audio/wav\r\n\r\nRIFF\r\n" in body


def test_clips_differ_in_length_and_content(tmp_path: Path) -> None:
    clips = distinct_clips(tmp_path, 2.0, 3)
    assert [wav_seconds(path) for path in clips] == [2.0, 1.999, 1.998]
    assert len({path.read_bytes()[-4000:] for path in clips}) == 3


def test_a_long_file_is_exactly_as_long_as_asked(tmp_path: Path) -> None:
    # Longer than one block of writing, and no multiple of anything.
    assert wav_seconds(write_long_wav(tmp_path / "long.wav", 61.37)) == pytest.approx(61.37, abs=1e-4)
