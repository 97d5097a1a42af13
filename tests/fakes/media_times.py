"""Recordings whose times are not those of their samples: late starts, pauses that were never sent, holes, joints."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from tests.fakes.media import Samples, encoded, tones

PICTURES = {
    "matroska": ("aac", "mpeg4"),
    "mp4": ("aac", "libx264"),
    "mov": ("aac", "mpeg4"),
    "mpegts": ("aac", "mpeg2video"),
    "webm": ("libopus", "libvpx"),
}
"""Containers with stamps, and what to put into them."""


def shifted(content: bytes, container: str, shift: Callable[[float], float | None]) -> bytes:
    """A file again, with every audio packet `shift(time)` seconds later, or left out where that is None."""
    source = av.open(io.BytesIO(content))
    file = io.BytesIO()
    with source, av.open(file, "w", format=container) as output:
        streams: dict[int, Any] = {one.index: output.add_stream_from_template(one) for one in source.streams}
        packets = [packet for packet in source.demux() if packet.dts is not None and packet.pts is not None]
        for packet in packets:
            assert packet.pts is not None
            assert packet.dts is not None
            if packet.stream.type == "audio":
                later = shift(float(packet.pts * packet.time_base))
                if later is None:
                    continue
                ticks = int(later / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = streams[packet.stream_index]
            output.mux(packet)
    return file.getvalue()


def film(container: str, shift: Callable[[float], float | None]) -> bytes:
    """Three seconds of picture, and sound whose packets `shift` moves."""
    sound, picture = PICTURES[container]
    whole = encoded(container, sound, tones(3.0, 48_000), rate_hz=48_000, picture=picture)
    return shifted(whole, container, shift)


def inverted(
    codec: str, container: str, signal: Samples, layout: str = "stereo", rate_hz: int = 16_000
) -> bytes:
    """A signal in the first two channels, one of them inverted; any others are silent."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        track: Any = output.add_stream(codec, rate=rate_hz, layout=layout)
        channels = track.layout.nb_channels
        planes = np.zeros((channels, len(signal)), np.float32)
        planes[0], planes[1] = signal, -signal
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        track.codec_context.open(strict=False)
        fitted = av.AudioResampler(
            format=track.format,
            layout=layout,
            rate=rate_hz,
            frame_size=track.codec_context.frame_size or 1024,
        )
        for piece in [*fitted.resample(frame), *fitted.resample(None), None]:
            output.mux(track.encode(piece))
    return file.getvalue()


def unknown_codec_first(seconds: float = 3.0) -> bytes:
    """An MP4 of two audio tracks, the first of a codec that nobody knows."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        sources = [av.open(io.BytesIO(encoded("ipod", "aac", tones(seconds, 16_000)))) for _ in range(2)]
        tracks = [output.add_stream_from_template(one.streams.audio[0]) for one in sources]
        for source, track in zip(sources, tracks, strict=True):
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = track
                    output.mux(packet)
    content = file.getvalue()
    return content.replace(b"mp4a", b"apac", 1).replace(b"esds", b"none", 1)


def with_data_size(wav: bytes, size: int) -> bytes:
    """A WAV file (44 bytes of header) whose header states another number of bytes of samples."""
    return wav[:4] + struct.pack("<I", size + 36) + wav[8:40] + struct.pack("<I", size) + wav[44:]


def as_rf64(wav: bytes, size: int | None = None) -> bytes:
    """A WAV file (44 bytes of header) as RF64. size: bytes of samples that it states, instead of how many there are."""
    stated = len(wav) - 44 if size is None else size
    sizes = struct.pack("<QQQI", stated + 72, stated, stated // 2, 0)
    head = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes
    return head + wav[12:40] + b"\xff\xff\xff\xff" + wav[44:]


def edit_list_bomb(edits: int, seconds_each: float = 3.0) -> bytes:
    """An m4a of ten seconds whose edit list plays the first of them over and over."""
    whole = encoded("ipod", "aac", tones(10.0, 16_000))
    moov = whole.index(b"moov") - 4
    head, index = whole[:moov], whole[moov:]
    at = index.index(b"edts") - 4
    length = struct.unpack_from(">I", index, at)[0]
    ticks = struct.unpack_from(">I", index, index.index(b"mvhd") + 16)[0]
    rows = struct.pack(">IiI", int(seconds_each * ticks), 1024, 0x10000) * edits
    table = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, edits) + rows
    box = struct.pack(">I4s", 8 + len(table), b"edts") + table
    longer = bytearray(index[:at] + box + index[at + length :])
    for name in (b"moov", b"trak"):
        place = longer.index(name) - 4
        struct.pack_into(">I", longer, place, struct.unpack_from(">I", longer, place)[0] + len(box) - length)
    return head + bytes(longer)


def flac_of_comments(count: int, text: bytes = b"A=B") -> bytes:
    """Three seconds of FLAC behind so many comments, all alike."""
    whole = encoded("flac", "flac", tones(3.0, 16_000))
    comments = struct.pack("<I4sI", 4, b"test", count) + (struct.pack("<I", len(text)) + text) * count
    return whole[:42] + b"\x04" + len(comments).to_bytes(3, "big") + comments + whole[42:]


def mp3_of_fields(count: int) -> bytes:
    """A second of MP3 behind an ID3 tag of so many fields, each of another name."""
    fields = b"".join(b"TXXX\x00\x00\x00\x0a\x00\x00\x00%07d\x00a" % number for number in range(count))
    size = bytes((len(fields) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return (
        b"ID3\x04\x00\x00" + size + fields + encoded("mp3", "libmp3lame", tones(1.0, 44_100), rate_hz=44_100)
    )


def mp3_of_rates(frames: int) -> bytes:
    """MP3 whose every frame has another sample rate."""
    kinds = []
    for rate_hz in (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000):
        raw = {"write_xing": "0", "id3v2_version": "0"}
        one = encoded("mp3", "libmp3lame", tones(1.0, rate_hz), rate_hz=rate_hz, options=raw)
        with av.open(io.BytesIO(one)) as source:
            kinds.append([bytes(packet) for packet in source.demux() if packet.size])
    return b"".join(
        kinds[at % len(kinds)][at // len(kinds) % len(kinds[at % len(kinds)])] for at in range(frames)
    )


def matroska_of_tags(count: int) -> bytes:
    """A second of Matroska behind so many tags, each of another name."""
    whole = encoded("matroska", "flac", tones(1.0, 16_000))
    segment = whole.index(b"\x18\x53\x80\x67") + 4
    tracks = whole.index(b"\x16\x54\xae\x6b")

    def element(name: bytes, body: bytes) -> bytes:
        return name + b"\x01" + len(body).to_bytes(7, "big") + body

    tags = b"".join(
        element(b"\x67\xc8", element(b"\x45\xa3", b"T%07d" % number) + element(b"\x44\x87", b"v"))
        for number in range(count)
    )
    live = whole[:segment] + b"\x01" + b"\xff" * 7
    return (
        live
        + whole[segment + 8 : tracks]
        + element(b"\x12\x54\xc3\x67", element(b"\x73\x73", tags))
        + whole[tracks:]
    )


def table_of_millions() -> bytes:
    """An m4a of some kilobytes whose sample table claims 14 million entries of 24 bytes in memory each."""
    count = 14_000_000
    file = bytearray(encoded("ipod", "aac", rate_hz=16_000))
    at = file.index(b"stsz") + 8
    file[at : at + 8] = struct.pack(">II", 1, count)
    at = file.index(b"stsc") + 8
    assert struct.unpack(">I", file[at : at + 4])[0] >= 1
    file[at + 8 : at + 12] = struct.pack(">I", count)
    at = file.index(b"stts") + 8
    file[at + 4 : at + 8] = struct.pack(">I", count)
    return bytes(file)
