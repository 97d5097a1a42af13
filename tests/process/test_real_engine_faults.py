"""Faults behind the whole server, and faults of the real engine with a tiny random model."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scribewire.engine.processes.child import EXIT_ENGINE_FAULT
from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.messages import AudioSource, TextDelta
from scribewire.server.engine.client import AudioOutcome, TranscriptionEvent
from tests.fakes import faulty_worker
from tests.fakes.clips import babbling
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import PATIENCE_SECONDS, is_gone, run, wait_until, wait_until_async
from tests.http.openai_shapes import check_stream, parse_events
from tests.process.engines import IMPATIENT, engine, stuck_event, transcribe

pytestmark = pytest.mark.process


# ---- over HTTP -----------------------------------------------------------------------------------------------


def test_stream_goes_on_behind_what_was_sent(tmp_path: Path):
    speech = script(
        deltas=["One", " two", " three"], exit=4, break_times=1, break_counter=str(tmp_path / "broken")
    )
    with RunningServer(tmp_path / "data") as running:
        response = running.transcribe(speech, stream="true", temperature="0.7")
        events, _ = parse_events(response.content)
        deltas, done = check_stream(events)
        assert deltas == ["One", " two", " three"]
        assert done["text"] == "One two three"
        assert running.engine.worker_deaths == 1
        assert running.leftovers() == []


def test_hung_engine_is_503_with_its_reason_until_it_is_replaced(tmp_path: Path):
    speech = script(hang=True, break_times=1, break_counter=str(tmp_path / "broken"), text="at last")
    with RunningServer(tmp_path / "data", stall_seconds=2.5) as running, ThreadPoolExecutor(1) as pool:
        worker = running.engine.worker_process_id
        request = pool.submit(running.transcribe, speech)
        answer = wait_until(lambda: (seen := running.client.get("/health/ready")).status_code == 503 and seen)
        error = assert_openai_error(answer, 503, "engine_stalled")
        assert "being replaced, because it has made no progress for" in error["message"]
        assert int(answer.headers["retry-after"]) > 0
        assert running.client.get("/health/live").status_code == 200
        wait_until(lambda: running.client.get("/health/ready").status_code == 200)
        assert request.result(PATIENCE_SECONDS).json()["text"] == "at last"
        assert is_gone(worker)


def test_open_breaker_is_503_for_those_who_wait_and_no_end_for_jobs(tmp_path: Path):
    settings = {"breaker_deaths": 2, "breaker_pause_seconds": 4.0, "restart_backoff_seconds": (0.0,)}
    with RunningServer(tmp_path, **settings) as running:
        assert_openai_error(running.transcribe(script(exit=1)), 503, "engine_crashed")
        wait_until(lambda: running.engine.supervisor.resting_seconds)
        ready, refused = running.client.get("/health/ready"), running.transcribe(script(text="x"))
        for answer, code in ((ready, "engine_resting"), (refused, "engine_unavailable")):
            error = assert_openai_error(answer, 503, code)
            assert "died 2 times within 600 s" in error["message"]
            assert "exit code 1" in error["message"]
            assert 0 < int(answer.headers["retry-after"]) <= 5
        job = running.client.post("/transcribe", files={"audio": script(text="patience")}).json()
        assert running.client.get(f"/jobs/{job['job_id']}").json()["status"] in ("queued", "processing")
        done = wait_until(
            lambda: (
                (seen := running.client.get(f"/jobs/{job['job_id']}").json())["status"] == "completed"
                and seen
            )
        )
        assert done["result"]["text"] == "patience"


# ---- the real engine -----------------------------------------------------------------------------------------

OPTIONS = TranscribeOptions(language="English", max_tokens=40)
SPEECH_SECONDS = 70


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def give_cue(model: Path, kind: str) -> None:
    """Have the worker break at one of its next steps; written whole at once, for it is checked at every step."""
    (model / "written").write_text(kind)
    (model / "written").rename(model / "cue")


def samples(folder: Path, name: str, seconds: int) -> Path:
    path = folder / name
    babbling(f"faults/{name}", seconds).tofile(path)
    return path


def test_real_engine_that_breaks_in_every_way_says_what_an_unbroken_one_says(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    sources = [AudioSource(str(samples(tmp_path, name, 10)), kind="pcm_float32") for name in ("a", "b")]

    async def story() -> None:
        async with engine(str(model), module=faulty_worker.__name__, watch=IMPATIENT) as client:

            async def transcribe_both() -> tuple[list[str], list[str]]:
                heard: list[TranscriptionEvent] = []
                tasks = [
                    transcribe(client, sources[0], OPTIONS),
                    transcribe(client, sources[1], OPTIONS, owner="bob", wants_deltas=True, heard=heard),
                ]
                texts = [one.text for one in await asyncio.gather(*tasks)]
                return texts, [event.delta for event in heard if isinstance(event, TextDelta)]

            expected, _ = await transcribe_both()
            assert all(expected)
            for deaths, kind in enumerate(("fault", "abort", "hang"), start=1):
                give_cue(model, kind)
                texts, deltas = await transcribe_both()
                assert texts == expected
                assert "".join(deltas) == expected[1]
                assert client.worker_deaths == deaths

    with caplog.at_level("INFO", logger="scribewire.engine"):
        run(story())
    ends = [one.scribewire_event for one in caplog.records if one.getMessage() == "engine_died"]
    assert [end["exit_code"] for end in ends] == [EXIT_ENGINE_FAULT, -signal.SIGABRT, -signal.SIGTERM]
    assert any("Insufficient Memory" in line for line in ends[0]["last_words"])
    assert any("faulty_worker.py" in line for line in stuck_event(caplog)["stacks"])


@pytest.mark.parametrize("is_whole", [False, True], ids=["still growing", "whole by then"])
def test_growing_audio_is_handed_out_again_whole(model: Path, tmp_path: Path, is_whole: bool):
    path = samples(tmp_path, "speech", SPEECH_SECONDS)
    data = path.read_bytes()
    whole = AudioSource(str(path), kind="pcm_float32")
    growing_path = tmp_path / "growing"
    growing_path.write_bytes(data[: len(data) * 9 // 10])
    growing = AudioSource(
        str(growing_path), kind="pcm_float32", is_growing=True, expected_seconds=SPEECH_SECONDS
    )

    def grow(ended: asyncio.Future[AudioOutcome]) -> None:
        with growing_path.open("ab") as file:
            file.write(data[len(data) * 9 // 10 :])
        ended.set_result(AudioOutcome(len(data) // 4))

    async def story() -> None:
        async with engine(str(model), module=faulty_worker.__name__) as client:
            expected = await transcribe(client, whole, OPTIONS)
            give_cue(model, "abort")
            ended: asyncio.Future[AudioOutcome] = asyncio.get_running_loop().create_future()
            if is_whole:
                grow(ended)
            task = asyncio.create_task(transcribe(client, growing, OPTIONS, audio_ended=ended))
            await wait_until_async(lambda: client.worker_deaths == 1)
            if not is_whole:
                await wait_until_async(lambda: client._in_flight.held_count == 1)
                grow(ended)
            transcript = await task
            assert transcript.text == expected.text
            assert transcript.duration_seconds == SPEECH_SECONDS

    run(story())
