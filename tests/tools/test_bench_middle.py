"""Short requests in the middle of a long one, against a server that only counts."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.engine.bench.serving import ServerAddress
from tests.fakes.counting_server import PATIENCE_SECONDS, CountingServer, counting_server
from tools.bench.middle import short_in_the_middle


@pytest.fixture
def server() -> Iterator[tuple[CountingServer, ServerAddress]]:
    with counting_server() as (counting, address):
        yield counting, ServerAddress("counting", address, "key-1", {"model": "m"})


def clip(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"RIFF")
    return path


def test_short_requests_are_answered_while_the_long_one_is_under_way(
    server: tuple[CountingServer, ServerAddress], tmp_path: Path
) -> None:
    counting, address = server
    shorts = [clip(tmp_path, "one.wav"), clip(tmp_path, "two.wav")]
    ending = threading.Thread(target=_let_it_end_after, args=(counting, 2), daemon=True)
    ending.start()
    found = short_in_the_middle(address, clip(tmp_path, "long.wav"), shorts, 0.3)
    ending.join(PATIENCE_SECONDS)
    assert counting.order == ["one.wav", "two.wav", "long.wav"]
    assert len(found.short_seconds) == 2
    assert found.file_seconds > max(found.short_seconds)


def test_short_requests_due_after_the_end_are_left_out(
    server: tuple[CountingServer, ServerAddress], tmp_path: Path
) -> None:
    counting, address = server
    counting.long_may_end.set()
    found = short_in_the_middle(address, clip(tmp_path, "long.wav"), [clip(tmp_path, "one.wav")], 3600.0)
    assert found.short_seconds == ()
    assert counting.order == ["long.wav"]


def _let_it_end_after(counting: CountingServer, answers: int) -> None:
    while counting.answered < answers:
        threading.Event().wait(0.01)
    counting.long_may_end.set()
