"""Uploads to transcripts through real decode children: beside the engine, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scribewire.engine.audio.transcode import transcode_audio
from scribewire.engine.processes.launch import WORKER_MODULE
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.errors import AudioUndecodable, EngineBusy, EngineCrashed
from scribewire.engine.protocol.messages import AudioEnded, Cancel, Completed, Failed, ToWorker, Transcribe
from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.protocol.transcript import Timings, Transcript
from scribewire.server.engine.client import EngineClient
from scribewire.server.http.errors import ApiError
from scribewire.server.speakers.child import Speakers
from scribewire.server.transcode.pool import TranscodePool
from scribewire.server.transcode.process import TranscodedRecording
from scribewire.server.transcription.service import TranscriptionService
from tests.fakes.media import LIMITS, encoded, riff, tones
from tests.fakes.running_server import RunningServer, assert_openai_error
from tests.fakes.streams import transcript_of
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import PATIENCE_SECONDS, run, wait_until, wait_until_async
from tests.process.pools import RATE, SHORT, pool_of, samples_beside, upload

pytestmark = pytest.mark.process


# ---- with the engine -----------------------------------------------------------------------------------------

INFO = ModelInfo(
    model_id="fake",
    is_demo=False,
    languages=("English",),
    device="none",
    dtype="none",
    weight_bits=16,
    parameter_count=0,
    resident_bytes=0,
    load_seconds=0.0,
)


def no_speakers() -> Speakers:
    """No request here asks for speakers, so that no child is started."""
    return Speakers(DiarizationConfig(), timeout_seconds=1.0)


class ListeningEngine:
    """In the supervisor's place: answers with the digest of the samples when it hears that all are written."""

    state, info, failure = "ready", INFO, None

    def __init__(self) -> None:
        self.client = EngineClient(self, max_queued_requests=2)
        self.messages: list[ToWorker] = []

    def send(self, message: ToWorker) -> bool:
        self.messages.append(message)
        if isinstance(message, Transcribe) and not message.audio.is_growing:
            self._answer(message)
        if isinstance(message, AudioEnded):
            if message.failure is not None:
                self.client.on_message(Failed(message.request_id, *message.failure))
            else:
                self._answer(self.begun[0])
        return True

    @property
    def begun(self) -> list[Transcribe]:
        return [message for message in self.messages if isinstance(message, Transcribe)]

    def _answer(self, request: Transcribe) -> None:
        samples = Path(request.audio.path).read_bytes()
        transcript = Transcript(
            text=hashlib.sha256(samples).hexdigest(),
            language=None,
            duration_seconds=len(samples) / 4 / RATE,
            segments=(),
            languages=(),
            model_id="fake",
            warnings=("of the engine",),
            timings=Timings(total_seconds=1.0),
        )
        loop = asyncio.get_running_loop()
        loop.call_soon(self.client.on_message, Completed(request.request_id, transcript))


@contextlib.asynccontextmanager
async def recognizer_of(
    **options: Any,
) -> AsyncIterator[tuple[TranscriptionService, ListeningEngine, TranscodePool]]:
    async with pool_of(**options) as pool:
        engine = ListeningEngine()
        yield TranscriptionService(engine.client, pool, no_speakers()), engine, pool


def test_whole_recording_reaches_the_engine_with_its_warnings_and_times(tmp_path: Path) -> None:
    whole = riff(np.int16(tones(10.0, RATE) * 32_767).tobytes())
    cut_off = whole[: len(whole) // 2]
    path = upload(tmp_path, cut_off)
    expected = transcode_audio(cut_off, limits=LIMITS)

    async def work() -> None:
        async with recognizer_of() as (service, engine, _):
            transcript = await transcript_of(service.transcribe(path, TranscribeOptions(), owner="me"))
            assert transcript.text == hashlib.sha256(expected.samples.tobytes()).hexdigest()
            assert transcript.warnings == (*expected.warnings, "of the engine")
            assert transcript.timings.decode_audio_seconds > 0
            assert transcript.timings.total_seconds > 1.0
            assert (engine.begun[0].owner, engine.begun[0].priority) == ("me", "interactive")
            assert samples_beside(path) == []

    run(work())


def test_engine_begins_while_the_recording_is_decoded(tmp_path: Path, hour: Path) -> None:
    path = upload(tmp_path, hour)

    async def work() -> None:
        async with recognizer_of(begins_after_seconds=40) as (service, engine, _):
            working = asyncio.create_task(
                transcript_of(service.transcribe(path, TranscribeOptions(), owner="me"))
            )
            await wait_until_async(lambda: engine.begun)
            source = engine.begun[0].audio
            assert source.is_growing
            early = Path(source.path).stat().st_size
            transcript = await working
            assert transcript.duration_seconds == pytest.approx(3600, rel=0.05)
            assert transcript.duration_seconds > 2 * early / 4 / RATE
            ended = engine.messages[-1]
            assert isinstance(ended, AudioEnded)
            assert ended.sample_count == transcript.duration_seconds * RATE
            assert samples_beside(path) == []

    run(work())


def test_recording_whose_child_dies_half_way_fails_with_that(tmp_path: Path, long_recording: Path) -> None:
    path = upload(tmp_path, long_recording)

    async def work() -> None:
        async with recognizer_of(begins_after_seconds=1) as (service, engine, pool):
            working = asyncio.create_task(
                transcript_of(service.transcribe(path, TranscribeOptions(), owner="me"))
            )
            await wait_until_async(lambda: engine.begun)
            os.kill(pool.process_ids[0], signal.SIGKILL)
            with pytest.raises(AudioUndecodable, match="within the limits"):
                await working
            assert samples_beside(path) == []

    run(work())


def test_dead_engine_stops_the_decoding_too(tmp_path: Path, long_recording: Path) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with recognizer_of(begins_after_seconds=1) as (service, engine, pool):
            working = asyncio.create_task(
                transcript_of(service.transcribe(path, TranscribeOptions(), owner="me"))
            )
            await wait_until_async(lambda: engine.begun)
            engine.client.on_death("it was killed")
            engine.client.on_state("ready")
            await wait_until_async(lambda: len(engine.begun) == 2)
            engine.client.on_death("its successor was killed")
            with pytest.raises(EngineCrashed):
                await working
            assert samples_beside(path) == []
            (await pool.transcode(short, is_interactive=True)).close()

    run(work())


def test_cancelled_request_cancels_the_decoding_and_the_engines_work(
    tmp_path: Path, long_recording: Path
) -> None:
    path, short = upload(tmp_path, long_recording), upload(tmp_path, SHORT, "b")

    async def work() -> None:
        async with recognizer_of(begins_after_seconds=1) as (service, engine, pool):
            working = asyncio.create_task(
                transcript_of(service.transcribe(path, TranscribeOptions(), owner="me"))
            )
            await wait_until_async(lambda: engine.begun)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert engine.messages[-1] == Cancel(engine.begun[0].request_id)
            assert samples_beside(path) == []
            (await pool.transcode(short, is_interactive=True)).close()

    run(work())


def test_recordings_being_decoded_count_as_waiting(tmp_path: Path, long_recording: Path) -> None:
    paths = [upload(tmp_path, long_recording, str(number)) for number in range(3)]

    async def work() -> None:
        async with recognizer_of(begins_after_seconds=1e6) as (service, engine, _):

            async def admitted(path: Path) -> Transcript:
                async with engine.client.admission():
                    return await transcript_of(service.transcribe(path, TranscribeOptions(), owner="me"))

            works = [asyncio.create_task(admitted(path)) for path in paths[:2]]
            await wait_until_async(lambda: all(samples_beside(path) for path in paths[:2]))
            with pytest.raises(EngineBusy):
                await admitted(paths[2])
            assert samples_beside(paths[2]) == []
            for one in works:
                one.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    run(work())


class NoRoom:
    """A decoder on a disk that fills up once the recording has begun."""

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        raise ApiError(507, "disk_full", "No room.", should_retry=False)


def test_lack_of_room_is_told_as_such(tmp_path: Path) -> None:
    async def work() -> None:
        service = TranscriptionService(ListeningEngine().client, NoRoom(), no_speakers())
        with pytest.raises(ApiError) as raised:
            await transcript_of(service.transcribe(tmp_path, TranscribeOptions(), owner="me"))
        assert raised.value.rule.status == 507

    run(work())


# ---- over HTTP -----------------------------------------------------------------------------------------------


def served(data: Path, **options: Any) -> RunningServer:
    return RunningServer(data, transcoder=TranscodePool(**{"processes": 1, **options}))


def test_upload_reaches_the_engine_as_samples(tmp_path: Path) -> None:
    recording = riff(np.int16(tones(3.0, 44_100) * 32_767).tobytes(), rate_hz=44_100)
    samples = transcode_audio(recording, limits=LIMITS).samples.tobytes()
    expected = f"{len(samples)} bytes, SHA-256 {hashlib.sha256(samples).hexdigest()}"
    with served(tmp_path) as server:
        assert server.transcribe(recording).json()["text"] == expected
        job_id = server.client.post("/transcribe", files={"audio": recording}).json()["job_id"]
        job = wait_until(lambda: ended_job(server, job_id))
        assert job["result"]["text"] == expected
        wait_until(lambda: server.leftovers() == [])


def ended_job(server: RunningServer, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = server.client.get(f"/jobs/{job_id}").json()
    return job if job["status"] in ("completed", "failed") else None


def test_bad_upload_is_400_and_a_bad_job_fails_with_the_same_code(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        assert_openai_error(
            server.transcribe(b"Dear sirs, " * 100), 400, "audio_format_unsupported", param="file"
        )
        job_id = server.client.post("/transcribe", files={"audio": b"Dear sirs, " * 100}).json()["job_id"]
        job = wait_until(lambda: ended_job(server, job_id))
        assert job["error"]["code"] == "audio_format_unsupported"
        assert server.client.delete(f"/jobs/{job_id}").status_code == 200
        assert server.leftovers() == []


def test_killed_child_is_400_for_its_upload_and_the_server_stays_up(
    tmp_path: Path, long_recording: Path
) -> None:
    pool = TranscodePool(processes=1, begins_after_seconds=1e6)
    with RunningServer(tmp_path, transcoder=pool) as server:
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.append(server.transcribe(long_recording.read_bytes()))
        )
        asking.start()
        wait_until(lambda: written_samples(server))
        os.kill(pool.process_ids[0], signal.SIGKILL)
        asking.join(PATIENCE_SECONDS)
        assert_openai_error(answers[0], 400, "audio_undecodable", param="file")
        assert server.transcribe(SHORT).status_code == 200
        assert server.leftovers() == []


def written_samples(server: RunningServer) -> list[Path]:
    return [path for folder in server.leftovers() for path in folder.glob("samples-*") if path.stat().st_size]


def test_client_that_goes_away_while_its_upload_is_decoded_leaves_nothing(
    tmp_path: Path, long_recording: Path
) -> None:
    pool = TranscodePool(processes=1, begins_after_seconds=1e6)
    with RunningServer(tmp_path, transcoder=pool) as server:
        body = long_recording.read_bytes()
        head = (
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % body
        )
        request = (
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
            b"content-type: multipart/form-data; boundary=b\r\ncontent-length: %d\r\n\r\n"
            % (server.port, len(head))
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(request + head)
            wait_until(lambda: written_samples(server))
            children = pool.process_ids
        wait_until(lambda: server.leftovers() == [])
        assert server.transcribe(SHORT).status_code == 200
        assert pool.process_ids == children


# ---- with a real engine --------------------------------------------------------------------------------------


def test_growing_samples_come_to_the_same_transcript_as_whole_ones(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    speech = np.random.default_rng(0).normal(0, 0.1, 45 * 44_100).astype(np.float32)
    recording = encoded("mp3", "libmp3lame", speech, rate_hz=44_100)
    answers = []
    for begins_after_seconds in (1e6, 1.0):
        transcoder = Noticing(TranscodePool(processes=1, begins_after_seconds=begins_after_seconds))
        data = tmp_path / f"{begins_after_seconds}"
        with RunningServer(
            data, transcoder=transcoder, engine_module=WORKER_MODULE, model=str(model), device="cpu"
        ) as server:
            answers.append(server.transcribe(recording, response_format="verbose_json").json())
            assert transcoder.were_growing == [begins_after_seconds == 1.0]
            assert server.leftovers() == []
    assert answers[0]["duration"] == pytest.approx(45, abs=0.1)
    assert answers[0] == answers[1]


class Noticing:
    """A decoder that remembers which of another's recordings were still growing."""

    def __init__(self, transcoder: TranscodePool) -> None:
        self.start, self.stop = transcoder.start, transcoder.stop
        self._transcoder = transcoder
        self.were_growing: list[bool] = []

    async def transcode(
        self, upload_path: Path, *, is_interactive: bool, owner: str = ""
    ) -> TranscodedRecording:
        recording = await self._transcoder.transcode(upload_path, is_interactive=is_interactive, owner=owner)
        self.were_growing.append(recording.source.is_growing)
        return recording
