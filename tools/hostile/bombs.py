"""Four small files that hold hours of audio, written by hand and the same at every call; nothing is stored.

A decoder that decodes first and asks later takes gigabytes for each of them. The FLAC files consist of frames with one
constant subframe (RFC 9639, section 9.2.3), the Opus file of code 3 packets, each six empty 20 ms frames (RFC 6716,
section 3.2.5), in Ogg pages (RFC 3533, RFC 7845).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from tests.fakes.media import riff
from tools.hostile.mutations import ogg_checksum

_FLAC_BLOCK_SAMPLES = 65_535
_OPUS_PACKET = bytes((0b0_1001_0_11, 6))
"""SILK, wideband, 20 ms frames, mono; code 3: constant bit rate, no padding, six frames of no bytes each."""
_OPUS_PACKET_SECONDS = 0.12
_PACKETS_IN_A_PAGE = 255


@dataclass(frozen=True, slots=True)
class Bomb:
    """A file and how much audio it holds."""

    name: str
    content: bytes
    hours: float


def _crc(data: bytes, *, bits: int, polynomial: int) -> int:
    top, mask, value = 1 << (bits - 1), (1 << bits) - 1, 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & mask
    return value


def _coded_number(number: int) -> bytes:
    """A frame number as FLAC writes it; below 65,536 that is what UTF-8 does, surrogates included."""
    return chr(number).encode("utf-8", "surrogatepass")


def constant_flac(*, rate_hz: int, seconds: float, claimed_seconds: float) -> bytes:
    """A FLAC file of silence: about 15 bytes for every 65,535 samples."""
    block = _FLAC_BLOCK_SAMPLES
    claimed = int(claimed_seconds * rate_hz)
    stream_info = struct.pack(">HH", block, block) + bytes(6)
    stream_info += (rate_hz << 44 | 0 << 41 | 15 << 36 | claimed).to_bytes(8, "big") + bytes(16)
    frames = []
    for number in range(round(seconds * rate_hz / block)):
        # Fixed block size; size in 16 bits after the number; rate of STREAMINFO; mono; 16 bits a sample.
        header = b"\xff\xf8\x70\x08" + _coded_number(number) + struct.pack(">H", block - 1)
        frame = header + bytes((_crc(header, bits=8, polynomial=0x07),)) + b"\x00" + b"\x00\x00"
        frames.append(frame + struct.pack(">H", _crc(frame, bits=16, polynomial=0x8005)))
    return b"fLaC" + b"\x80" + len(stream_info).to_bytes(3, "big") + stream_info + b"".join(frames)


def _ogg_page(flags: int, granule: int, number: int, packets: list[bytes]) -> bytes:
    """packets: each shorter than 255 bytes."""
    head = struct.pack("<4sBBQIIIB", b"OggS", 0, flags, granule, 7, number, 0, len(packets))
    page = head + bytes(len(packet) for packet in packets) + b"".join(packets)
    return page[:22] + ogg_checksum(page).to_bytes(4, "little") + page[26:]


def empty_opus(*, size_bytes: int) -> tuple[bytes, float]:
    """An Ogg Opus file of about that size and the seconds of audio in it."""

    def pages() -> Iterator[bytes]:
        yield _ogg_page(2, 0, 0, [struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 0, 48_000, 0, 0)])
        yield _ogg_page(0, 0, 1, [struct.pack("<8sI3sI", b"OpusTags", 3, b"asr", 0)])
        page_bytes = 27 + _PACKETS_IN_A_PAGE * (1 + len(_OPUS_PACKET))
        count = size_bytes // page_bytes
        for number in range(count):
            granule = round((number + 1) * _PACKETS_IN_A_PAGE * _OPUS_PACKET_SECONDS * 48_000)
            packets = [_OPUS_PACKET] * _PACKETS_IN_A_PAGE
            yield _ogg_page(4 if number + 1 == count else 0, granule, number + 2, packets)

    written = list(pages())
    return b"".join(written), (len(written) - 2) * _PACKETS_IN_A_PAGE * _OPUS_PACKET_SECONDS


def _one_hertz_wav() -> Bomb:
    payload = bytes(39_000)
    return Bomb("39 KB WAV at 1 Hz", riff(payload, rate_hz=1, bits=8), len(payload) / 3600)


def _small_flac() -> Bomb:
    hours = 4.3
    content = constant_flac(rate_hz=16_000, seconds=hours * 3600, claimed_seconds=hours * 3600)
    return Bomb("56 KB FLAC", content, hours)


def _opus() -> Bomb:
    content, seconds = empty_opus(size_bytes=2_000_000)
    return Bomb("2 MB Opus", content, seconds / 3600)


def _lying_flac() -> Bomb:
    content = constant_flac(rate_hz=8_000, seconds=40 * 3600, claimed_seconds=1)
    return Bomb("263 KB FLAC that claims 1 s", content, 40.0)


_MAKERS: dict[str, Callable[[], Bomb]] = {
    "wav": _one_hertz_wav,
    "flac": _small_flac,
    "opus": _opus,
    "lying-flac": _lying_flac,
}
BOMBS: tuple[str, ...] = tuple(_MAKERS)


@cache
def bomb(kind: str) -> Bomb:
    """One of BOMBS."""
    return _MAKERS[kind]()
