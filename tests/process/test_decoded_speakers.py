"""Speakers of uploads that real decode children decoded: the samples that the speaker child reads are theirs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.protocol.speakers import DiarizationConfig, Diarized, SpeakerOptions
from scribewire.server.speakers.child import Speakers
from scribewire.server.speakers.diarization import Diarization
from scribewire.server.transcode.pool import TranscodePool
from tests.fakes.media import riff
from tests.fakes.running_server import RunningServer, assert_openai_error
from tests.fakes.speaker_stand_in import MODULE
from tests.fakes.waiting import run

pytestmark = pytest.mark.process
RATE = 16_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # Recordings begin to be transcribed after two seconds, while the rest is decoded.
    pool = TranscodePool(processes=1, begins_after_seconds=2.0)
    with RunningServer(tmp_path_factory.mktemp("data"), transcoder=pool) as running:
        yield running
        assert running.leftovers() == []


def hummed(*stretches: tuple[int, float]) -> bytes:
    """A WAV of tones by (hertz, seconds), 0 hertz for silence."""
    tones = [0.3 * np.sin(2 * np.pi * hertz * np.arange(int(s * RATE)) / RATE) for hertz, s in stretches]
    return riff((np.concatenate(tones) * 32767).astype("<i2").tobytes(), rate_hz=RATE)


def url(recording: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(recording).decode()


def speakers(server: RunningServer, recording: bytes, **fields: object) -> list[str]:
    response = server.transcribe(recording, response_format="diarized_json", **fields)
    assert response.status_code == 200, response.text
    return [segment["speaker"] for segment in response.json()["segments"]]


def test_the_pipeline_gets_every_sample_also_of_a_recording_that_is_still_decoded(tmp_path: Path):
    (tmp_path / "upload").write_bytes(hummed((400, 30.0), (0, 1.0), (800, 29.0), (400, 1.5)))

    async def diarized() -> Diarized | None:
        pool = TranscodePool(processes=1, begins_after_seconds=2.0)
        voices = Speakers(DiarizationConfig(), timeout_seconds=60, module=MODULE)
        await pool.start()
        try:
            recording = await pool.transcode(tmp_path / "upload", is_interactive=True)
            try:
                return await Diarization(pool, voices).diarize(
                    recording, tmp_path, SpeakerOptions(), is_interactive=True
                )
            finally:
                recording.close()
        finally:
            await voices.stop()
            await pool.stop()

    found = run(diarized())
    assert found is not None
    assert [(turn.start_seconds, turn.end_seconds, turn.speaker) for turn in found.turns] == [
        (0.0, 30.0, "A"),
        (31.0, 60.0, "B"),
        (60.0, 61.5, "A"),
    ]


def test_known_voices_are_decoded_and_recognized(server: RunningServer):
    fields = {
        "known_speaker_names[]": ["Ann", "Bob"],
        "known_speaker_references[]": [url(hummed((800, 2.0))), url(hummed((400, 2.0)))],
    }
    assert speakers(server, hummed((400, 5.0), (800, 5.0)), **fields) == ["Bob"]


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (b"no recording at all", "audio_format_unsupported"),
        (riff(bytes(range(64)) * 4_000, rate_hz=8_000, bits=8), "invalid_parameter"),  # 32 s
    ],
    ids=["no recording", "too long"],
)
def test_a_reference_that_cannot_be_used_is_a_400_that_names_its_field(
    server: RunningServer, reference: bytes, code: str
):
    fields = {"known_speaker_names[]": "Ann", "known_speaker_references[]": url(reference)}
    response = server.transcribe(hummed((400, 4.0)), response_format="diarized_json", **fields)
    assert_openai_error(response, 400, code, param="known_speaker_references")
