"""Sound stands where a player has it, and what is missing, joined or left over is named."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from scribewire.engine.audio.pcm import Frame, Timeline
from scribewire.engine.audio.transcode import TranscodedAudio, transcode_audio
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import (
    AudioFormatUnsupported,
    AudioTooLong,
    AudioUndecodable,
)
from tests.fakes.media import (
    EXPERIMENTAL,
    LIMITS,
    LOSSLESS,
    LOSSY,
    Samples,
    aligned,
    assert_one_helpful_line,
    encoded,
    riff,
    tones,
)
from tests.fakes.media_times import (
    PICTURES,
    as_rf64,
    edit_list_bomb,
    film,
    flac_of_comments,
    inverted,
    mp3_of_fields,
    mp3_of_rates,
    shifted,
    unknown_codec_first,
    with_data_size,
)

WHOLE = tones(3.0, 16_000)


def transcode(content: bytes) -> TranscodedAudio:
    return transcode_audio(content, limits=LIMITS)


def first_sound(samples: Samples) -> float:
    """Seconds before the first sample that is no silence."""
    return float(np.argmax(np.abs(samples) > 0.02)) / 16_000


# ---- late starts and gaps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", PICTURES)
def test_sound_that_starts_after_the_picture_keeps_its_time(container: str) -> None:
    audio = transcode(film(container, lambda _: 2.94))
    assert audio.warnings == ()
    assert first_sound(audio.samples) == pytest.approx(2.94, abs=0.12)
    assert aligned(audio.samples[int(2.94 * 16_000) :][: len(WHOLE)], WHOLE) > 0.98


@pytest.mark.parametrize("container", PICTURES)
def test_a_pause_whose_packets_were_not_sent_keeps_its_length(container: str) -> None:
    audio = transcode(film(container, lambda at: 5.0 if at > 1.5 else 0.0))
    assert audio.duration_seconds == pytest.approx(8.0, abs=0.12)
    assert not audio.samples[int(2.0 * 16_000) : int(6.0 * 16_000)].any()
    assert aligned(audio.samples[int(6.7 * 16_000) : 8 * 16_000], WHOLE[int(1.7 * 16_000) :]) > 0.95
    (line,) = audio.warnings
    assert "sound is missing from 1." in line
    assert "cut off" not in line


@pytest.mark.parametrize("start", [1.6, 1_000.0])
def test_stamps_that_begin_late_by_themselves_delay_nothing(start: float) -> None:
    content = shifted(encoded("webm", "libopus", WHOLE), "webm", lambda _: start)
    audio = transcode(content)
    assert audio.duration_seconds == pytest.approx(3.0, abs=0.02)
    assert audio.warnings == ()


@pytest.mark.parametrize("container", ["matroska", "mpegts"])
def test_packets_lost_in_the_middle_leave_silence_and_a_warning(container: str) -> None:
    audio = transcode(film(container, lambda at: None if 1.0 < at < 2.0 else 0.0))
    assert audio.duration_seconds == pytest.approx(3.0, abs=0.12)
    assert aligned(audio.samples[int(2.2 * 16_000) : 3 * 16_000], WHOLE[int(2.2 * 16_000) :]) > 0.95
    ((start, end),) = re.findall(r"sound is missing from ([\d.]+) to ([\d.]+) s", audio.warnings[0])
    assert (float(start), float(end)) == (pytest.approx(1.0, abs=0.2), pytest.approx(2.0, abs=0.2))


def test_a_hole_in_an_ogg_keeps_the_time_of_what_follows() -> None:
    content = bytearray(encoded("ogg", "libopus", tones(9.0, 48_000), rate_hz=48_000))
    content[len(content) // 3 : 2 * len(content) // 3] = bytes(len(content) // 3)
    audio = transcode(bytes(content))
    assert audio.duration_seconds == pytest.approx(9.0, abs=0.05)
    assert aligned(audio.samples[8 * 16_000 :], tones(9.0, 16_000)[8 * 16_000 :]) > 0.95
    assert "sound is missing from" in audio.warnings[0]


def test_damage_in_a_stream_without_stamps_takes_its_time() -> None:
    content = bytearray(LOSSY["mp3"]())
    middle = len(content) // 2
    content[middle : middle + 4_000] = bytes(4_000)
    audio = transcode(bytes(content))
    assert audio.duration_seconds == pytest.approx(3.0, abs=0.06)
    assert any("damaged at 1.5 s" in line for line in audio.warnings)


def test_silence_that_was_put_in_counts_against_the_limit() -> None:
    content = film("mp4", lambda at: 20.0 if at > 1.5 else 0.0)
    with pytest.raises(AudioTooLong):
        transcode_audio(content, limits=AudioLimits(max_duration_seconds=10))


# ---- stamps that are wrong ---------------------------------------------------------------------------------------


def placed(stamps: list[float], *, end: float | None = None) -> tuple[float, list[str]]:
    """Length and warnings of frames of 0.1 s with these stamps, in a container of a declared length."""

    def frames() -> Iterator[Frame]:
        for stamp in stamps:
            yield Frame(1_000, np.ones(100, np.float32), stamp)

    timeline = Timeline(start_seconds=stamps[0], end_seconds=end)
    count = sum(len(samples) for _, samples in timeline.place(frames()))
    return count / 1_000, timeline.warnings(0.0)


def steady(start: float, count: int = 50) -> list[float]:
    return [start + 0.1 * number for number in range(count)]


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        (steady(0.0), 5.0),
        (steady(0.0) + steady(105.0), 110.0),
        ([stamp + 0.04 * (-1) ** at for at, stamp in enumerate(steady(0.0))], 5.0),
        (steady(0.0) + steady(0.0), 10.0),
        ([0.0] * 50, 5.0),
        (steady(0.0)[::-1], 5.0),
        ([*steady(0.0, 20), 90.0, *steady(2.1, 29)], 5.0),
        ([*steady(0.0, 20), 90.0, 90.1, 90.2, *steady(2.3, 27)], 5.0),
        ([*steady(0.0, 20), 0.0, *steady(2.1, 29)], 5.0),
        (steady(0.0) + steady(95_443.0), 10.0),
        (steady(0.0) + steady(3e9) + steady(10.0), 15.0),
    ],
    ids=[
        "steady",
        "gap",
        "jitter",
        "again",
        "equal",
        "backwards",
        "outlier",
        "outliers",
        "zero",
        "wrapped",
        "years",
    ],
)
def test_stamps_are_never_worse_than_counting(stamps: list[float], seconds: float) -> None:
    assert placed(stamps)[0] == pytest.approx(seconds, abs=0.11)


def test_a_gap_may_reach_to_the_declared_end_and_five_minutes_where_there_is_none() -> None:
    stamps = steady(0.0) + steady(1_000.0)
    assert placed(stamps, end=1_005.0)[0] == pytest.approx(1_005.0)
    for end in (None, 900.0):
        seconds, warnings = placed(stamps, end=end)
        assert seconds == pytest.approx(10.0)
        assert warnings == [
            "the time stamps leap by 995 s at 5.0 s: no silence was put in, so later times may be too early"
        ]


def test_joined_transport_streams_follow_one_another() -> None:
    first = LOSSY["transport stream"]()
    audio = transcode(first + first)
    assert audio.duration_seconds == pytest.approx(6.14, abs=0.05)
    assert audio.warnings == ()


# ---- what is said of the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp3", "m4a", "wav", "webm", "ogg with opus", "flac", "mp4 video"])
@pytest.mark.parametrize("tail", [b"TAG" + b"x" * 125, bytes(500)], ids=["tag", "zeros"])
def test_a_whole_file_with_a_tag_or_padding_is_not_called_cut_off(kind: str, tail: bytes) -> None:
    assert transcode((LOSSLESS | LOSSY)[kind]() + tail).warnings == ()


@pytest.mark.parametrize("kind", ["m4a", "webm"])
def test_bytes_that_cannot_be_read_are_counted(kind: str) -> None:
    tail = np.random.default_rng(3).integers(0, 255, 5_000).astype("u1").tobytes()
    assert "5000 bytes" in transcode(LOSSY[kind]() + tail).warnings[0]


def test_an_ogg_without_an_end_mark_is_not_called_cut_off() -> None:
    content = LOSSY["ogg with opus"]()
    audio = transcode(content[: content.rindex(b"OggS")])
    assert "no end mark" in audio.warnings[0]
    assert "cut off" not in audio.warnings[0]


# ---- sound beyond what a header states ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "wav",
        "w64",
        "aiff",
        "caf",
        "flac",
        "m4a",
        "fragmented mp4",
        "webm",
        "mkv with flac",
        "ogg with opus",
        "amr",
    ],
)
def test_joined_recordings_are_all_read(kind: str) -> None:
    one = (LOSSLESS | LOSSY)[kind]()
    alone, joined = transcode(one), transcode(one + one)
    same = len(alone.samples) - 400  # the last ones are resampled with what follows
    np.testing.assert_array_equal(joined.samples[:same], alone.samples[:same])
    assert aligned(joined.samples[len(alone.samples) :], alone.samples) > 0.99
    assert joined.warnings == ()


@pytest.mark.parametrize("kind", ["flac", "ogg flac", "ogg vorbis", "wav", "m4a"])
def test_joined_recordings_may_differ_in_rate(kind: str) -> None:
    def one(rate_hz: int) -> bytes:
        container, codec = {
            "flac": ("flac", "flac"),
            "ogg flac": ("ogg", "flac"),
            "ogg vorbis": ("ogg", "vorbis"),
            "wav": ("wav", "pcm_s16le"),
            "m4a": ("ipod", "aac"),
        }[kind]
        options = EXPERIMENTAL if codec == "vorbis" else None
        layout = "stereo" if codec == "vorbis" else "mono"
        return encoded(container, codec, rate_hz=rate_hz, layout=layout, codec_options=options)

    audio = transcode(one(16_000) + one(44_100))
    assert audio.duration_seconds == pytest.approx(6.0, abs=0.15)
    assert aligned(audio.samples[-46_000:], WHOLE[-46_000:]) > 0.95
    assert audio.warnings == ()


def test_links_of_an_ogg_chain_may_be_of_different_codecs() -> None:
    audio = transcode(LOSSY["ogg with opus"]() + LOSSY["ogg with vorbis"]())
    assert audio.duration_seconds == pytest.approx(6.0, abs=0.02)


def test_a_wav_whose_header_counts_the_first_buffer_is_read_to_its_end() -> None:
    values = (WHOLE * 32_767).astype("<i2")
    audio = transcode(with_data_size(riff(values.tobytes()), 8_192))
    np.testing.assert_array_equal(audio.samples, values.astype(np.float32) / 32_768)
    assert "header states less" in audio.warnings[0]


def test_rf64_is_read_joined_short_of_its_size_and_beyond_it() -> None:
    values = (WHOLE * 32_767).astype("<i2")
    wav = riff(values.tobytes())
    whole = transcode(as_rf64(wav))
    np.testing.assert_array_equal(whole.samples, values.astype(np.float32) / 32_768)
    joined, little = transcode(as_rf64(wav) * 2), transcode(as_rf64(wav, 8_192))
    cut = transcode(as_rf64(wav[: 44 + 48_000], 96_000))
    assert [len(one.samples) for one in (joined, little, cut)] == [96_000, 48_000, 24_000]
    assert (whole.warnings, joined.warnings) == ((), ())
    assert "header states less" in little.warnings[0]
    assert "only its first 1.5 of 3.0 s" in cut.warnings[0]


@pytest.mark.parametrize("kind", ["w64", "aiff", "caf"])
@pytest.mark.parametrize("stated", ["unknown", "little"])
def test_unknown_and_small_sizes_do_not_end_a_recording(kind: str, stated: str) -> None:
    content = bytearray(LOSSLESS[kind]())
    name, width, order = {
        "w64": (b"data", 8, "little"),
        "aiff": (b"SSND", 4, "big"),
        "caf": (b"data", 8, "big"),
    }[kind]
    at = content.index(name) + (16 if kind == "w64" else 4)
    size = (1 << 8 * width) - 1 if stated == "unknown" else 8_024
    content[at : at + width] = size.to_bytes(width, order)  # type: ignore[arg-type]  # one of two words
    audio = transcode(bytes(content))
    assert len(audio.samples) == 48_000
    assert bool(audio.warnings) == (stated == "little")


def test_chunks_behind_the_samples_are_no_sound() -> None:
    content = (
        riff((WHOLE * 32_767).astype("<i2").tobytes())
        + b"LIST\x04\x00\x00\x00INFO"
        + b"id3 \x03\x00\x00\x00abc\x00"
    )
    audio = transcode(content)
    assert len(audio.samples) == 48_000
    assert audio.warnings == ()


# ---- channels and tracks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "container", "layout"),
    [
        ("flac", "flac", "stereo"),
        ("flac", "flac", "5.1"),
        ("libmp3lame", "mp3", "stereo"),
        ("aac", "ipod", "stereo"),
    ],
)
def test_an_inverted_side_does_not_cancel_the_other(codec: str, container: str, layout: str) -> None:
    audio = transcode(inverted(codec, container, WHOLE, layout))
    # Either side may be taken, and the other's sound has the opposite sign.
    assert max(aligned(audio.samples, WHOLE), aligned(-audio.samples, WHOLE)) > 0.95
    assert np.abs(audio.samples).max() > 0.3


def test_a_change_to_one_channel_and_back_does_not_click() -> None:
    quarter = len(WHOLE) // 4
    left = tones(3.0, 16_000, (110.0,))
    right = left.copy()
    right[quarter : 2 * quarter] *= -1
    pair = (np.stack([left, right], axis=1) * 32_767).astype("<i2")
    audio = transcode(riff(pair.tobytes(), channels=2))
    assert np.abs(np.diff(audio.samples)).max() < 0.06
    loud = np.abs(audio.samples.reshape(-1, 1_600)).max(axis=1)
    assert (loud > 0.05).mean() > 0.9


def test_a_track_of_an_unknown_codec_gives_way_to_the_next() -> None:
    audio = transcode(unknown_codec_first())
    assert aligned(audio.samples, WHOLE) > 0.98
    assert audio.warnings == ("the first audio track cannot be decoded: another was taken",)


@pytest.mark.parametrize("codec", ["ac3", "eac3"])
def test_raw_dolby_streams_are_read(codec: str) -> None:
    audio = transcode(encoded(codec, codec, rate_hz=48_000))
    assert aligned(audio.samples, WHOLE) > 0.95
    assert audio.warnings == ()


# ---- what would keep the decoder busy ----------------------------------------------------------------------------


def test_an_edit_list_that_repeats_its_sound_for_hours_is_refused() -> None:
    with pytest.raises(AudioFormatUnsupported, match="edit list") as caught:
        transcode(edit_list_bomb(2_000))
    assert_one_helpful_line(caught.value)


def test_comments_of_a_flac_and_fields_of_an_mp3_are_not_read() -> None:
    np.testing.assert_array_equal(
        transcode(flac_of_comments(500_000)).samples, transcode(LOSSLESS["flac"]()).samples
    )
    assert transcode(mp3_of_fields(60_000)).duration_seconds == pytest.approx(1.0, abs=0.05)


def test_a_rate_that_changes_with_every_frame_is_refused() -> None:
    with pytest.raises(AudioUndecodable, match="rate changes") as caught:
        transcode(mp3_of_rates(3_000))
    assert_one_helpful_line(caught.value)
