"""Media for tests, made in memory by PyAV's encoders: every kind of recording that is accepted, and what to compare."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import AudioError

LIMITS = AudioLimits()
Samples = npt.NDArray[np.float32]


def tones(seconds: float, rate_hz: int, hertz: tuple[float, ...] = (220.0, 440.0, 1250.0)) -> Samples:
    """A signal whose loudness wanders, so that a shift in time shows."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    wave = sum(np.sin(2 * np.pi * pitch * time) for pitch in hertz) * (
        1 + 0.5 * np.sin(2 * np.pi * 1.7 * time)
    )
    return np.asarray(0.15 * wave, dtype=np.float32)


def riff(payload: bytes, *, rate_hz: int = 16_000, channels: int = 1, bits: int = 16, tag: int = 1) -> bytes:
    """A WAV file around samples; tag 1 is integers, 3 is floats."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * frame, frame, bits)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", len(payload))
        + payload
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encoded(
    container: str,
    codec: str | None,
    signal: Samples | None = None,
    *,
    rate_hz: int = 16_000,
    layout: str = "mono",
    picture: str | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> bytes:
    """A media file with an audio track, a moving picture, or both."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        packets: list[Any] = []
        if codec is not None:
            signal = tones(3.0, rate_hz) if signal is None else signal
            track: Any = output.add_stream(codec, rate=rate_hz, layout=layout, options=codec_options or {})
            track.codec_context.open(strict=False)
            channels = track.layout.nb_channels
            packed = np.repeat(signal, channels)[np.newaxis, :]
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            fitted = av.AudioResampler(
                format=track.format,
                layout=layout,
                rate=rate_hz,
                frame_size=track.codec_context.frame_size or 1024,
            )
            for piece in [*fitted.resample(frame), *fitted.resample(None), None]:
                packets += track.encode(piece)
        if picture is not None:
            video: Any = output.add_stream(picture, rate=10)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            random = np.random.default_rng(0)
            for number in range(30):
                image = av.VideoFrame.from_ndarray(
                    random.integers(0, 255, (64, 64, 3), dtype=np.uint8), format="rgb24"
                )
                image.pts = number
                packets += video.encode(image)
            packets += video.encode(None)
        for packet in sorted(packets, key=lambda one: float((one.dts or 0) * one.time_base)):
            output.mux(packet)
    return file.getvalue()


EXPERIMENTAL = {"strict": "experimental"}
LOSSLESS: dict[str, Callable[[], bytes]] = {
    "wav": lambda: encoded("wav", "pcm_s16le"),
    "w64": lambda: encoded("w64", "pcm_s16le"),
    "flac": lambda: encoded("flac", "flac"),
    "aiff": lambda: encoded("aiff", "pcm_s16be"),
    "caf": lambda: encoded("caf", "pcm_s16le"),
    "au": lambda: encoded("au", "pcm_s16be"),
    "mkv with flac": lambda: encoded("matroska", "flac"),
    "ogg with flac": lambda: encoded("ogg", "flac"),
    "m4a with alac": lambda: encoded("ipod", "alac"),
    "video with flac": lambda: encoded("matroska", "flac", picture="mpeg4"),
}
LOSSY: dict[str, Callable[[], bytes]] = {
    "mp3": lambda: encoded("mp3", "libmp3lame", rate_hz=44_100),
    "mp3 without a header": lambda: encoded(
        "mp3", "libmp3lame", options={"write_xing": "0", "id3v2_version": "0"}
    ),
    "m4a": lambda: encoded("ipod", "aac", rate_hz=44_100, layout="stereo"),
    "fragmented mp4": lambda: encoded("mp4", "aac", options={"movflags": "frag_keyframe+empty_moov"}),
    "aac": lambda: encoded("adts", "aac"),
    "ogg with opus": lambda: encoded("ogg", "libopus", rate_hz=48_000),
    "ogg with vorbis": lambda: encoded(
        "ogg", "vorbis", rate_hz=44_100, layout="stereo", codec_options=EXPERIMENTAL
    ),
    "webm": lambda: encoded("webm", "libopus", rate_hz=48_000),
    "mp4 video": lambda: encoded("mp4", "aac", picture="mpeg4"),
    "h264 video": lambda: encoded("mp4", "aac", picture="libx264"),
    "avi video": lambda: encoded("avi", "libmp3lame", picture="mpeg4"),
    "transport stream": lambda: encoded("mpegts", "aac"),
    "amr": lambda: encoded("amr", "amr_nb", rate_hz=8_000),
}


def aligned(found: Samples, expected: Samples) -> float:
    """Correlation of two signals at the best shift of up to 0.15 s (encoders add a delay of their own)."""
    size = 1 << (len(found) + len(expected)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
    near = np.concatenate([cross[:2_400], cross[-2_400:]])
    return float(near.max() / (np.linalg.norm(found) * np.linalg.norm(expected)))


def assert_one_helpful_line(error: AudioError) -> None:
    """The message is a single line of the form "what is wrong: what to do"."""
    assert "\n" not in str(error)
    assert 20 < len(str(error)) < 250
    assert ":" in str(error)
