"""Files that are no recording, or no whole one, are refused by name or kept with a warning."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.audio.container import OpenContainer
from scribewire.engine.audio.parts import Part
from scribewire.engine.audio.transcode import transcode_audio
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import (
    AudioEmpty,
    AudioError,
    AudioFormatUnsupported,
    AudioTooShort,
    AudioTrackMissing,
    AudioTruncated,
    AudioUndecodable,
    AudioUnreadable,
)
from tests.fakes.media import LIMITS, LOSSLESS, LOSSY, aligned, assert_one_helpful_line, encoded, riff, tones

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100)
NOT_AUDIO: dict[str, tuple[bytes, str]] = {
    "text": (b"Dear all, here is the text. " * 9, "text"),
    "utf-8 text cut inside a character": (("ä" * 5_000).encode(), "text"),
    "utf-16 text": ("Dear all, here is the text.".encode("utf-16"), "text"),
    "json": (b'{"audio": "none"}', "text"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
    "png": (PNG, "PNG"),
    "jpeg": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "JPEG"),
    "gif": (b"GIF89a" + bytes(100), "GIF"),
    "webp": (b"RIFF\x64\x00\x00\x00WEBPVP8 " + bytes(100), "WebP"),
    "heic": (b"\x00\x00\x00\x18ftypheic" + bytes(100), "HEIC"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
    "zip": (b"PK\x03\x04" + bytes(60), "ZIP"),
    "gzip": (b"\x1f\x8b\x08" + bytes(60), "gzip"),
    "noise": (np.random.default_rng(8).integers(1, 255, 5_000).astype("u1").tobytes(), "not a recording"),
    "zeros": (bytes(5_000), "not a recording"),
    "hls playlist": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///a.wav\n#EXT-X-ENDLIST\n",
        "playlist",
    ),
    "ffconcat": (b"ffconcat version 1.0\nfile a.wav\n", "playlist"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nm=audio 5004 RTP/AVP 0\n", "playlist"),
    "dash": (b'<?xml version="1.0"?><MPD type="static"><Period></Period></MPD>', "playlist"),
}


@pytest.mark.parametrize("kind", NOT_AUDIO)
def test_what_is_no_recording_is_named(kind: str) -> None:
    content, name = NOT_AUDIO[kind]
    with pytest.raises(AudioFormatUnsupported, match=name) as caught:
        transcode_audio(content, limits=LIMITS)
    assert_one_helpful_line(caught.value)


@pytest.mark.parametrize("kind", ["hls playlist", "ffconcat", "sdp", "dash"])
def test_playlists_are_refused_by_the_demuxer_list_too_and_open_no_other_file(
    kind: str, tmp_path: Path
) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(LOSSLESS["wav"]())
    content = (
        NOT_AUDIO[kind][0]
        .replace(b"/a.wav", str(target).encode())
        .replace(b"file a.wav", f"file {target}".encode())
    )
    with pytest.raises(AudioFormatUnsupported) as caught:
        OpenContainer(io.BytesIO(content), Part(b"", 0, len(content)), LIMITS, on_packet=list)
    assert_one_helpful_line(caught.value)


def test_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    for source in (b"", io.BytesIO(), tmp_path / "a.wav"):
        with pytest.raises(AudioEmpty, match="0 bytes") as caught:
            transcode_audio(source, limits=LIMITS)
        assert_one_helpful_line(caught.value)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi"])
def test_a_video_without_sound_says_so(kind: str) -> None:
    with pytest.raises(AudioTrackMissing, match="no audio track") as caught:
        transcode_audio(encoded(kind, None, picture="mpeg4"), limits=LIMITS)
    assert_one_helpful_line(caught.value)


@pytest.mark.parametrize(
    "kind", ["wav", "flac", "m4a with alac", "mkv with flac", "aiff", "caf", "ogg with flac"]
)
@pytest.mark.parametrize("length", [12, 20, 36])
def test_a_file_cut_off_before_its_first_sample_says_so(kind: str, length: int) -> None:
    with pytest.raises(AudioTruncated, match="cut off") as caught:
        transcode_audio(LOSSLESS[kind]()[:length], limits=LIMITS)
    assert_one_helpful_line(caught.value)


@pytest.mark.parametrize("kind", ["m4a", "mp4 video", "mp3", "webm", "ogg with opus"])
def test_lossy_files_cut_off_before_the_first_sample_say_so(kind: str) -> None:
    with pytest.raises(AudioTruncated, match="cut off"):
        transcode_audio(LOSSY[kind]()[:60], limits=LIMITS)


def test_an_mp4_without_its_index_at_the_end_is_cut_off() -> None:
    content = LOSSY["m4a"]()
    with pytest.raises(AudioTruncated, match="cut off"):
        transcode_audio(content[: len(content) // 2], limits=LIMITS)


def test_a_track_of_zero_length_says_so() -> None:
    with pytest.raises(AudioTooShort, match="zero length") as caught:
        transcode_audio(riff(b""), limits=LIMITS)
    assert_one_helpful_line(caught.value)


def test_two_hundred_samples_are_too_few_and_201_enough() -> None:
    with pytest.raises(AudioTooShort, match="200 samples") as caught:
        transcode_audio(riff(bytes(400)), limits=LIMITS)
    assert_one_helpful_line(caught.value)
    assert len(transcode_audio(riff(bytes(402)), limits=LIMITS).samples) == 201


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_a_file_are_refused(value: float) -> None:
    values = np.zeros(5_000, dtype="<f4")
    values[4_000] = value
    with pytest.raises(AudioUndecodable, match="NaN") as caught:
        transcode_audio(riff(values.tobytes(), bits=32, tag=3), limits=LIMITS)
    assert_one_helpful_line(caught.value)


def test_missing_files_folders_and_devices_say_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "none.wav", "does not exist"),
        (tmp_path, "folder"),
        (tmp_path / "pipe", "regular"),
    ):
        for source in (path, str(path)):
            with pytest.raises(AudioUnreadable, match=words) as caught:
                transcode_audio(source, limits=LIMITS)
            assert_one_helpful_line(caught.value)
    with pytest.raises(AudioUnreadable):
        transcode_audio("a\x00b", limits=LIMITS)


def test_urls_and_protocols_are_only_names_of_missing_files() -> None:
    for name in (
        "http://127.0.0.1:9/a.wav",
        "concat:a.wav|b.wav",
        "file:a.wav",
        "pipe:0",
        "data:audio/wav;base64,AA",
    ):
        with pytest.raises(AudioUnreadable, match="does not exist"):
            transcode_audio(name, limits=LIMITS)


class FailingFile(io.BytesIO):
    """A file on a disk that fails after its first bytes, or only later."""

    def __init__(self, content: bytes, good_reads: int) -> None:
        super().__init__(content)
        self.good_reads = good_reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.good_reads -= 1
        if self.good_reads < 0:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("good_reads", [0, 1, 2, 4])
def test_a_failing_disk_is_not_blamed_on_the_recording(good_reads: int) -> None:
    content = riff(bytes(2_000_000))
    with pytest.raises(AudioUnreadable, match="Input/output error"):
        transcode_audio(FailingFile(content, good_reads), limits=LIMITS)


def test_a_file_object_in_text_mode_is_refused() -> None:
    with pytest.raises(AudioUnreadable, match="binary mode"):
        transcode_audio(io.StringIO("RIFF"), limits=LIMITS)  # type: ignore[arg-type]  # the mistake under test


CUT_KINDS = sorted({*LOSSLESS, *LOSSY} - {"m4a with alac", "m4a", "mp4 video", "h264 video"})


@pytest.mark.parametrize("kind", CUT_KINDS)
def test_a_cut_off_file_that_still_decodes_is_kept_with_a_warning(kind: str) -> None:
    content = (LOSSLESS | LOSSY)[kind]()
    audio = transcode_audio(content[: len(content) * 6 // 10 - 7], limits=LIMITS)
    assert 0.8 < audio.duration_seconds < 2.2
    expected = tones(3.0, 16_000)[: len(audio.samples)]
    assert aligned(audio.samples, expected) > (0.7 if kind == "amr" else 0.9)
    if kind in ("mp3 without a header", "avi video", "transport stream"):
        return  # nothing in such a file says where it should have ended
    assert any("cut off" in line for line in audio.warnings), audio.warnings


def test_a_faststart_mp4_that_is_cut_off_is_kept_with_a_warning() -> None:
    content = LOSSY["fragmented mp4"]()
    audio = transcode_audio(content[: len(content) * 7 // 10], limits=LIMITS)
    assert audio.duration_seconds > 1.0
    assert "cut off" in audio.warnings[0]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_recorded_into_a_pipe_is_not_called_cut_off(size: int) -> None:
    content = bytearray(riff(np.zeros(20_000, dtype="<i2").tobytes()))
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    audio = transcode_audio(bytes(content), limits=LIMITS)
    assert len(audio.samples) == 20_000
    assert audio.warnings == ()


@pytest.mark.parametrize("kind", ["mp3", "flac", "aac", "ogg with opus"])
def test_a_damaged_middle_costs_only_itself(kind: str) -> None:
    content = bytearray((LOSSLESS | LOSSY)[kind]())
    middle = len(content) // 2
    content[middle : middle + len(content) // 20] = bytes(len(content) // 20)
    audio = transcode_audio(bytes(content), limits=LIMITS)
    assert audio.duration_seconds > 1.9
    expected = tones(3.0, 16_000)
    assert aligned(audio.samples[:15_000], expected[:15_000]) > 0.93


def test_a_damaged_middle_is_told() -> None:
    content = bytearray(LOSSY["aac"]())
    content[8_000:8_200] = b"\xa5" * 200
    audio = transcode_audio(bytes(content), limits=LIMITS)
    assert any("damaged" in line for line in audio.warnings)


def mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        mutant = bytearray(content)
        reach = len(mutant) if random.integers(2) else min(300, len(mutant))
        for _ in range(int(random.integers(1, 20))):
            mutant[int(random.integers(reach))] = int(random.integers(256))
        yield bytes(mutant[: int(random.integers(1, len(mutant)))] if random.integers(2) else mutant)


@pytest.mark.parametrize("kind", sorted({*LOSSLESS, *LOSSY}))
def test_mutilated_files_end_as_samples_or_as_an_audio_error(kind: str) -> None:
    limits = AudioLimits(max_duration_seconds=60.0)
    for mutant in mutants((LOSSLESS | LOSSY)[kind](), 12, seed=len(kind)):
        try:
            audio = transcode_audio(mutant, limits=limits)
        except AudioError as error:
            assert_one_helpful_line(error)
        else:
            assert np.isfinite(audio.samples).all()
            assert np.abs(audio.samples).max() <= 1.0
