"""Reading beside the engine's thread: one chunk a result, the end, errors as ends, a call for each result."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.audio import recording
from scribewire.engine.audio.recording import ReadAhead, ReadResult
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, EngineConfig
from scribewire.engine.protocol.errors import AudioError
from scribewire.engine.recording.work import RecordingWork, TranscribeItem
from tests.fakes.clips import babbling
from tests.fakes.waiting import PATIENCE_SECONDS


class Readers(ReadAhead[RecordingWork]):
    """Readers whose news can be waited for."""

    def __init__(self) -> None:
        self.news = threading.Semaphore(0)
        config = EngineConfig(max_chunk_seconds=10.0)
        super().__init__(lambda work: work.read(config), self.news.release)

    def read_one(self, work: RecordingWork) -> ReadResult[RecordingWork]:
        """One result, and what it alone brought."""
        self.start(work)
        assert self.news.acquire(timeout=PATIENCE_SECONDS)
        (result,) = self.take()
        assert result.work is work
        return result


@pytest.fixture
def readers() -> Iterator[Readers]:
    """Closed at the end."""
    readers = Readers()
    yield readers
    readers.close()


def noise(seconds: float) -> np.ndarray:
    return babbling("readers", seconds)


def test_each_look_takes_one_chunk_and_the_last_the_end(readers: Readers) -> None:
    work = RecordingWork(TranscribeItem(noise(25.0)))
    samples = 0
    for _ in range(3):
        result = readers.read_one(work)
        assert (result.is_last, result.error) == (False, None)
        assert result.chunk is not None
        assert result.chunk.start_sample == samples
        samples += result.chunk.samples.size
    assert samples == 25 * SAMPLE_RATE_HZ
    end = readers.read_one(work)
    assert (end.chunk, end.is_last, end.error) == (None, True, None)
    assert work.decode_audio_seconds > 0.0


def test_a_recording_that_cannot_be_read_ends_with_the_reason(readers: Readers, tmp_path: Path) -> None:
    text = tmp_path / "letter.wav"
    text.write_text("Dear reader")
    result = readers.read_one(RecordingWork(TranscribeItem(text)))
    assert result.is_last
    assert isinstance(result.error, AudioError)
    # The thread that met it goes on with the next recording.
    assert readers.read_one(RecordingWork(TranscribeItem(noise(1.0)))).chunk is not None


def test_nothing_is_taken_twice_and_closing_waits_for_the_look_under_way() -> None:
    readers = Readers()
    works = [RecordingWork(TranscribeItem(noise(1.0))) for _ in range(5)]
    for work in works:
        readers.start(work)
    readers.close()
    found = list(readers.take())
    assert {id(result.work) for result in found} == {id(work) for work in works}
    assert len(found) == 5
    assert list(readers.take()) == []


def test_hours_of_silence_do_not_keep_a_reader_from_others(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a while to find that there is no chunk; the reader comes back in between with nothing yet."""
    monkeypatch.setattr(recording, "_TURN_SECONDS", 0.0)
    work = RecordingWork(TranscribeItem(np.zeros(1200 * SAMPLE_RATE_HZ, dtype=np.float32)))
    results = [readers.read_one(work)]
    while not results[-1].is_last:
        results.append(readers.read_one(work))
    assert len(results) > 3
    assert all(result.error is None for result in results)
