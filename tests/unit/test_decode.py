"""Recordings of every accepted kind become 16 kHz mono samples, within hard bounds, as a stream."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.audio.transcode import BLOCK_SAMPLES, open_audio, transcode_audio
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import AudioFormatUnsupported, AudioParametersUnsupported, AudioTooLong
from tests.fakes.media import LIMITS, LOSSLESS, LOSSY, aligned, encoded, riff, tones


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_come_out_exactly(kind: str) -> None:
    audio = transcode_audio(LOSSLESS[kind](), limits=LIMITS)
    expected = np.round(tones(3.0, 16_000) * 32_768) / 32_768
    assert audio.warnings == ()
    assert audio.samples.dtype == np.float32
    assert len(audio.samples) == len(expected)
    assert np.abs(audio.samples - expected).max() <= 1.01 / 32_768


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_kinds_come_out_alike(kind: str) -> None:
    audio = transcode_audio(LOSSY[kind](), limits=LIMITS)
    expected = tones(3.0, 16_000)
    assert audio.warnings == ()
    assert abs(audio.duration_seconds - 3.0) < 0.16
    assert aligned(audio.samples, expected) > (0.7 if kind == "amr" else 0.98)


def test_16_bit_wav_at_16_khz_is_bit_exact() -> None:
    values = np.random.default_rng(1).integers(-32_768, 32_768, 100_000).astype("<i2")
    audio = transcode_audio(riff(values.tobytes()), limits=LIMITS)
    np.testing.assert_array_equal(audio.samples, values.astype(np.float32) / 32_768)


def test_float_wav_at_16_khz_is_bit_exact() -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 100_000).astype("<f4")
    audio = transcode_audio(riff(values.tobytes(), bits=32, tag=3), limits=LIMITS)
    np.testing.assert_array_equal(audio.samples, values)


@pytest.mark.parametrize(("bits", "tag"), [(8, 1), (24, 1), (32, 1), (64, 3)])
def test_other_sample_types_keep_their_full_scale(bits: int, tag: int) -> None:
    signal = tones(0.5, 16_000)
    payload = {
        8: lambda: np.round(signal * 127 + 128).astype("u1").tobytes(),
        24: lambda: (np.round(signal * 2**31).astype("<i4").view("u1").reshape(-1, 4)[:, 1:]).tobytes(),
        32: lambda: np.round(signal.astype(np.float64) * 2**31).astype("<i4").tobytes(),
        64: lambda: signal.astype("<f8").tobytes(),
    }[bits]()
    audio = transcode_audio(riff(payload, bits=bits, tag=tag), limits=LIMITS)
    assert np.abs(audio.samples - signal).max() < (0.01 if bits == 8 else 1e-6)


def test_channels_are_averaged_and_not_mixed_by_a_matrix() -> None:
    values = np.random.default_rng(2).integers(-9_000, 9_000, (20_000, 6)).astype("<i2")
    audio = transcode_audio(riff(values.tobytes(), channels=6), limits=LIMITS)
    np.testing.assert_allclose(audio.samples, values.mean(axis=1) / 32_768, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"), [("flac", "flac", 16_000), ("ipod", "aac", 48_000)]
)
def test_eight_planar_channels_are_read_within_their_bounds(container: str, codec: str, rate_hz: int) -> None:
    content = encoded(container, codec, rate_hz=rate_hz, layout="7.1")
    assert aligned(transcode_audio(content, limits=LIMITS).samples, tones(3.0, 16_000)) > 0.98


def test_opposite_channels_do_not_cancel() -> None:
    left = np.random.default_rng(2).integers(-9_000, 9_000, 20_000).astype("<i2")
    audio = transcode_audio(riff(np.stack([left, -left], axis=1).tobytes(), channels=2), limits=LIMITS)
    np.testing.assert_array_equal(np.abs(audio.samples), np.abs(left.astype(np.float32) / 32_768))


def test_samples_beyond_full_scale_are_clipped_and_the_rest_is_left_alone() -> None:
    values = np.full(8_000, 0.25, dtype="<f4")
    values[100], values[200] = 1.5, -1.5
    audio = transcode_audio(riff(values.tobytes(), bits=32, tag=3), limits=LIMITS)
    assert audio.samples[100] == 1.0
    assert audio.samples[200] == -1.0
    assert set(np.delete(audio.samples, [100, 200]).tolist()) == {0.25}


def test_floats_on_an_integer_scale_carry_a_warning() -> None:
    values = (tones(1.0, 16_000) * 32_768).astype("<f4")
    assert (
        "scaled wrongly" in transcode_audio(riff(values.tobytes(), bits=32, tag=3), limits=LIMITS).warnings[0]
    )


def test_content_decides_and_the_name_does_not(tmp_path: Path) -> None:
    for name in ("speech.mp3", "speech.txt", "speech.m3u8", "speech.png", "speech"):
        path = tmp_path / name
        path.write_bytes(LOSSLESS["flac"]())
        assert transcode_audio(path, limits=LIMITS).duration_seconds == 3.0
        assert transcode_audio(str(path), limits=LIMITS).duration_seconds == 3.0


def test_paths_bytes_and_file_objects_give_the_same_samples(tmp_path: Path) -> None:
    content = LOSSLESS["wav"]()
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    expected = transcode_audio(content, limits=LIMITS).samples
    np.testing.assert_array_equal(transcode_audio(path, limits=LIMITS).samples, expected)
    with path.open("rb") as file:
        file.seek(1000)  # a file object is read from its beginning
        np.testing.assert_array_equal(transcode_audio(file, limits=LIMITS).samples, expected)
        assert not file.closed


def test_a_pipe_is_read_too() -> None:
    content = encoded("ipod", "aac", tones(1.0, 16_000))  # its index is at the end, so it needs seeking
    reader, writer = os.pipe()
    os.write(writer, content[:60_000])
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert transcode_audio(pipe, limits=LIMITS).duration_seconds > 0.9


def test_a_stream_yields_bounded_blocks_and_knows_its_length() -> None:
    values = np.zeros(35 * 16_000, dtype="<i2")
    with open_audio(riff(values.tobytes()), limits=LIMITS) as stream:
        assert stream.declared_duration_seconds == pytest.approx(35.0)
        sizes = [len(block) for block in stream.blocks()]
        assert stream.duration_seconds == 35.0
    assert sum(sizes) == 35 * 16_000
    assert 0 < min(sizes) <= max(sizes) <= BLOCK_SAMPLES


def test_closing_leaves_no_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(LOSSLESS["wav"]())
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with open_audio(path, limits=LIMITS) as stream:
            next(stream.blocks())
        stream.close()  # a second time does no harm
        path.with_suffix(".txt").write_text("words")
        with pytest.raises(AudioFormatUnsupported):
            open_audio(path.with_suffix(".txt"), limits=LIMITS)
    assert len(os.listdir("/dev/fd")) == before


def test_a_change_of_rate_in_mid_stream_is_followed() -> None:
    first, second = LOSSY["aac"](), encoded("adts", "aac", rate_hz=44_100)
    audio = transcode_audio(first + second, limits=LIMITS)
    expected = np.concatenate([tones(3.0, 16_000), tones(3.0, 16_000)])
    assert abs(audio.duration_seconds - 6.0) < 0.3
    assert aligned(audio.samples[:46_000], expected[:46_000]) > 0.95
    assert aligned(audio.samples[-46_000:], expected[-46_000:]) > 0.95


@pytest.mark.parametrize("rate_hz", [1, 3_999, 384_001])
def test_rates_outside_the_bounds_are_refused(rate_hz: int) -> None:
    with pytest.raises(AudioParametersUnsupported, match="rate"):
        transcode_audio(riff(bytes(40_000), rate_hz=rate_hz), limits=LIMITS)


@pytest.mark.parametrize("rate_hz", [4_000, 384_000])
def test_rates_at_the_bounds_are_accepted(rate_hz: int) -> None:
    audio = transcode_audio(riff(bytes(rate_hz), rate_hz=rate_hz), limits=LIMITS)
    assert len(audio.samples) == 8_000


def test_nine_channels_are_refused_and_eight_accepted() -> None:
    assert len(transcode_audio(riff(bytes(16_000), channels=8), limits=LIMITS).samples) == 1_000
    with pytest.raises(AudioParametersUnsupported, match="9 channels"):
        transcode_audio(riff(bytes(18_000), channels=9), limits=LIMITS)


def test_the_limit_on_duration_is_exact() -> None:
    limits = AudioLimits(max_duration_seconds=2.0)
    assert len(transcode_audio(riff(bytes(64_000)), limits=limits).samples) == 32_000
    with pytest.raises(AudioTooLong, match="2 s"):
        transcode_audio(riff(bytes(64_002)), limits=limits)


def silent_flac(seconds: int) -> bytes:
    return encoded(
        "flac", "flac", np.zeros(seconds * 16_000, dtype=np.float32), codec_options={"frame_size": "65535"}
    )


def test_a_flac_that_claims_a_second_and_holds_minutes_is_stopped_by_counting() -> None:
    bomb = bytearray(silent_flac(600))
    assert len(bomb) < 20_000
    at = bomb.index(b"fLaC") + 8 + 13  # the 36 bits of STREAMINFO that state the number of samples
    bomb[at] &= 0xF0
    bomb[at + 1 : at + 5] = (16_000).to_bytes(4, "big")
    with open_audio(bytes(bomb), limits=AudioLimits(max_duration_seconds=60.0)) as stream:
        assert stream.declared_duration_seconds == 1.0
        with pytest.raises(AudioTooLong):
            list(stream.blocks())
        assert stream.duration_seconds <= 61.0


def test_hours_of_silence_are_no_error(tmp_path: Path) -> None:
    header = riff(b"")[:40]
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(header + (3 * 3600 * 32_000).to_bytes(4, "little"))
        file.truncate(44 + 3 * 3600 * 32_000)  # a sparse file: it takes no room
    with open_audio(tmp_path / "a.wav", limits=LIMITS) as stream:
        assert all(not block.any() for block in stream.blocks())
        assert stream.duration_seconds == 3 * 3600
