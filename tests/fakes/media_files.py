"""One small, valid recording of every format that is mutated, made by PyAV's encoders and the same at every call.

Nothing is stored. With one build of the libraries a format is always the same bytes: the muxers' random serial numbers
are switched off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tests.fakes.media import EXPERIMENTAL, encoded, tones

SECONDS = 1.0
_STABLE = {"fflags": "+bitexact"}


def _sound(container: str, codec: str, rate_hz: int = 16_000, **more: object) -> Callable[[], bytes]:
    def make() -> bytes:
        keywords = {"options": _STABLE, **more}
        return encoded(container, codec, tones(SECONDS, rate_hz), rate_hz=rate_hz, **keywords)  # type: ignore[arg-type]  # keywords of `encoded`, passed on

    return make


_MAKERS: dict[str, Callable[[], bytes]] = {
    "wav-s16": _sound("wav", "pcm_s16le"),
    "wav-s24": _sound("wav", "pcm_s24le", 44_100, layout="stereo"),
    "wav-f32": _sound("wav", "pcm_f32le", 48_000),
    "wav-ulaw": _sound("wav", "pcm_mulaw", 8_000),
    "aiff": _sound("aiff", "pcm_s16be", 22_050),
    "flac": _sound("flac", "flac", 44_100, layout="stereo"),
    "mp3": _sound("mp3", "libmp3lame", 44_100, layout="stereo"),
    "aac": _sound("adts", "aac", 44_100),
    "m4a": _sound("ipod", "aac", 44_100, layout="stereo"),
    "mp4-video": _sound("mp4", "aac", 44_100, picture="libx264"),
    "ogg-vorbis": _sound("ogg", "vorbis", 44_100, layout="stereo", codec_options=EXPERIMENTAL),
    "ogg-opus": _sound("ogg", "libopus", 48_000),
    "webm": _sound("webm", "libopus", 48_000),
    "mkv": _sound("matroska", "flac", 32_000, picture="mpeg4"),
}

FORMATS: tuple[str, ...] = tuple(_MAKERS)


@cache
def recording(kind: str) -> bytes:
    """The valid file of one of FORMATS."""
    return _MAKERS[kind]()
