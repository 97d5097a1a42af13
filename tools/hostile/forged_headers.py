"""Recordings whose headers lie: lengths, rates and channel counts from the edge of their range, nests without end."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.fakes.media import riff
from tests.fakes.media_files import recording
from tools.hostile.mutations import mend_ogg_checksums
from tools.hostile.playlists import _box

_LENGTHS = (0, 1, 3, 7, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)
_RATES = (0, 1, 3_999, 384_001, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_CHANNELS = (0, 9, 255, 65_535)


def forged_headers() -> dict[str, bytes]:
    """Every forgery by its name."""
    return dict([*_wav(), *_flac(), *_aiff(), *_mp4(), *_ogg(), *_tags(), *_matroska()])


def _with(content: bytes, at: int, replacement: bytes) -> bytes:
    return content[:at] + replacement + content[at + len(replacement) :]


def _wav() -> Iterator[tuple[str, bytes]]:
    whole = riff(bytes(8_000))
    for length in _LENGTHS:
        field = struct.pack("<I", length)
        yield f"wav: riff length {length}", _with(whole, 4, field)
        yield f"wav: fmt length {length}", _with(whole, 16, field)
        yield f"wav: data length {length}", _with(whole, 40, field)
        yield (
            f"wav: unknown chunk of length {length}",
            whole[:12] + b"junk" + field + whole[12:],
        )
    for rate in _RATES:
        yield f"wav: rate {rate}", _with(whole, 24, struct.pack("<I", rate))
    for channels in _CHANNELS:
        yield f"wav: {channels} channels", _with(whole, 22, struct.pack("<H", channels))
    yield "wav: block align 0", _with(whole, 32, b"\x00\x00")
    yield "wav: block align 65535", _with(whole, 32, b"\xff\xff")
    for bits in (0, 1, 7, 9, 63, 64, 255, 65_535):
        yield f"wav: {bits} bits", _with(whole, 34, struct.pack("<H", bits))
    for tag in (0, 2, 0x11, 0x31, 0x50, 0x55, 0x161, 0xFFFE, 0xFFFF):
        yield f"wav: codec {tag:#x}", _with(whole, 20, struct.pack("<H", tag))
    nested = b""
    for _ in range(2_000):
        nested = b"LIST" + struct.pack("<I", len(nested) + 4) + b"INFO" + nested
    yield "wav: lists in lists", whole[:36] + nested + whole[36:]
    yield "wav: in itself", riff(whole * 3)
    yield "wav: 20,000 empty chunks", whole[:36] + b"junk\x00\x00\x00\x00" * 20_000 + whole[36:]
    yield "wav: 500 fmt chunks", whole[:12] + whole[12:36] * 500 + whole[36:]
    sizes = struct.pack("<QQQI", 1 << 63, 1 << 63, 1 << 63, 0xFFFF_FFFF)
    yield (
        "rf64: sizes of 2^63 and a table of 2^32 rows",
        b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + sizes + whole[12:],
    )


def _flac() -> Iterator[tuple[str, bytes]]:
    whole = recording("flac")
    for length in (0, 1, 33, 35, 0xFFFFFF):
        yield f"flac: stream info of length {length}", _with(whole, 5, length.to_bytes(3, "big"))
    packed = int.from_bytes(whole[18:26], "big")
    for rate in (0, 1, (1 << 20) - 1):
        value = packed & ((1 << 44) - 1) | rate << 44
        yield f"flac: rate {rate}", _with(whole, 18, value.to_bytes(8, "big"))
    for samples in (0, 1, (1 << 36) - 1):
        value = packed >> 36 << 36 | samples
        yield f"flac: {samples} samples", _with(whole, 18, value.to_bytes(8, "big"))
    yield "flac: largest block smaller than the smallest", _with(whole, 8, b"\xff\xff\x00\x10")
    yield "flac: a picture of 16 MB claimed", whole[:4] + b"\x06\xff\xff\xff" + whole[4:]
    picture = b"\x06\x00\x00\x28" + b"\x00\x00\x00\x03" + b"\xff" * 36
    yield "flac: a picture whose texts are 4 GB long", whole[:42] + picture + whole[42:]
    yield "flac: a seek table of 900,000 points", whole[:42] + b"\x03\xff\xff\xf0" + whole[42:]


def _aiff() -> Iterator[tuple[str, bytes]]:
    whole = recording("aiff")
    common = whole.index(b"COMM") + 8
    for name, rate in {
        "0": bytes(10),
        "1": b"\x3f\xff\x80" + bytes(7),
        "2^31": b"\x40\x1e\x80" + bytes(7),
        "infinite": b"\x7f\xff\x80" + bytes(7),
        "not a number": b"\x7f\xff" + b"\xff" * 8,
        "negative": b"\xc0\x0c\xfa" + bytes(7),
    }.items():
        yield f"aiff: rate {name}", _with(whole, common + 8, rate)
    for channels in _CHANNELS:
        yield f"aiff: {channels} channels", _with(whole, common, struct.pack(">H", channels))
    for length in _LENGTHS:
        field = struct.pack(">I", length)
        yield f"aiff: {length} frames", _with(whole, common + 2, field)
        yield f"aiff: form length {length}", _with(whole, 4, field)
        yield f"aiff: sound length {length}", _with(whole, whole.index(b"SSND") + 4, field)


def _mp4() -> Iterator[tuple[str, bytes]]:
    whole = recording("m4a")
    for box in (b"moov", b"trak", b"mdia", b"stbl", b"stsd", b"mdat", b"esds"):
        for length in (0, 1, 7, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
            yield (
                f"m4a: {box.decode()} of length {length}",
                _with(whole, whole.index(box) - 4, struct.pack(">I", length)),
            )
    for table in (b"stsz", b"stsc", b"stts", b"stco"):
        at = whole.index(table) + (12 if table == b"stsz" else 8)
        for count in (0x00FF_FFFF, 0x7FFF_FFFF, 0xFFFF_FFFF):
            yield f"m4a: {table.decode()} of {count} rows", _with(whole, at, struct.pack(">I", count))
    kind = whole.index(b"mp4a") + 4
    for channels in _CHANNELS:
        yield f"m4a: {channels} channels", _with(whole, kind + 16, struct.pack(">H", channels))
    yield "m4a: time scale 0", _with(whole, whole.index(b"mdhd") + 16, bytes(4))
    moov = whole.index(b"moov") - 4
    for depth in (10, 1_000, 20_000):
        nest = b""
        for _ in range(depth):
            nest = _box(b"moov", nest)
        yield f"mp4: {depth} boxes in one another", whole[:moov] + nest + whole[moov:]
        nest = b""
        for number in range(depth):
            nest = _box((b"moov", b"trak", b"mdia", b"minf", b"udta", b"meta")[number % 6], nest)
        yield f"mp4: {depth} mixed boxes in one another", whole[:32] + nest
    index = whole[moov : moov + struct.unpack_from(">I", whole, moov)[0]]
    track = index[index.index(b"trak") - 4 :]
    track = track[: struct.unpack_from(">I", track)[0]]
    yield "mp4: 2,000 tracks", whole[:moov] + _box(b"moov", index[8:116], track * 2_000)
    yield "mp4: 200 indexes", whole[:moov] + index * 200
    yield (
        "mp4: an edit list of 2^31 turns",
        whole.replace(b"elst\x00\x00\x00\x00\x00\x00\x00\x01", b"elst\x00\x00\x00\x00\x7f\xff\xff\xff"),
    )


def _ogg() -> Iterator[tuple[str, bytes]]:
    for kind in ("ogg-opus", "ogg-vorbis"):
        whole = recording(kind)
        pages = [at for at in range(len(whole)) if whole.startswith(b"OggS", at)]
        wrong = bytearray(whole)
        for page in pages:
            wrong[page + 22] ^= 0xFF
        yield f"{kind}: every checksum wrong", bytes(wrong)
        yield f"{kind}: last checksum wrong", _with(whole, pages[-1] + 22, b"\x00\x00\x00\x00")
        for granule in (0, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            forged = bytearray(_with(whole, pages[-1] + 6, granule.to_bytes(8, "little")))
            mend_ogg_checksums(forged)
            yield f"{kind}: last position {granule}", bytes(forged)
        backwards = bytearray(whole)
        for number, page in enumerate(pages[2:]):
            backwards[page + 6 : page + 14] = (10_000_000 - 900_000 * number).to_bytes(
                8, "little", signed=True
            )
        mend_ogg_checksums(backwards)
        yield f"{kind}: positions run backwards", bytes(backwards)
        yield f"{kind}: 3,000 streams begin", whole[: pages[1]] * 3_000 + whole[pages[1] :]
        yield (
            f"{kind}: every page twice",
            b"".join(
                whole[start:end] * 2 for start, end in zip(pages, [*pages[1:], len(whole)], strict=True)
            ),
        )
    opus = recording("ogg-opus")
    head = opus.index(b"OpusHead")
    for name, at, value in (
        ("0 channels", 9, b"\x00"),
        ("255 channels", 9, b"\xff"),
        ("a pre-skip of 65,535", 10, b"\xff\xff"),
        ("a gain of +128 dB", 16, b"\xff\x7f"),
        ("a mapping of family 255", 18, b"\xff"),
    ):
        forged = bytearray(_with(opus, head + at, value))
        mend_ogg_checksums(forged)
        yield f"opus: {name}", bytes(forged)
    vorbis = recording("ogg-vorbis")
    head = vorbis.index(b"\x01vorbis")
    for name, at, value in (
        ("0 channels", 11, b"\x00"),
        ("255 channels", 11, b"\xff"),
        ("rate 0", 12, bytes(4)),
        ("rate 2^31", 12, b"\x00\x00\x00\x80"),
        ("blocks of 2^15 and 2^15", 28, b"\xff"),
    ):
        forged = bytearray(_with(vorbis, head + at, value))
        mend_ogg_checksums(forged)
        yield f"vorbis: {name}", bytes(forged)
    comment = bytearray(vorbis)
    at = comment.index(b"\x03vorbis") + 7
    comment[at : at + 4] = b"\xff\xff\xff\x7f"
    mend_ogg_checksums(comment)
    yield "vorbis: a comment of 2 GB claimed", bytes(comment)


def _tags() -> Iterator[tuple[str, bytes]]:
    sound = recording("mp3")
    sound = sound[10 + int.from_bytes(sound[8:10], "big") :]
    yield "mp3: an id3 tag of 256 MB claimed", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + sound
    yield (
        "mp3: an id3 tag of 256 MB claimed, in frames of 256 MB",
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + (b"APIC\x7f\x7f\x7f\x7f\x00\x00" + bytes(20)) * 50 + sound),
    )
    yield "mp3: 30,000 id3 tags", b"ID3\x04\x00\x00\x00\x00\x00\x00" * 30_000 + sound
    compressed = b"TIT2\x00\x00\x00\x20\x00\x09\x7f\x7f\x7f\x7fx\x9c" + bytes(22)
    yield (
        "mp3: a compressed frame that claims 256 MB",
        b"ID3\x04\x00\x00\x00\x00\x01\x00" + compressed * 4 + sound,
    )
    yield (
        "mp3: a tag of 20,000 empty frames",
        (
            b"ID3\x04\x00\x00\x00\x0c\x1a\x40"
            + b"TXXX\x00\x00\x00\x01\x00\x00\x03" * 18_181
            + bytes(9)
            + sound
        ),
    )
    xing = bytearray(recording("mp3"))
    at = max(xing.find(b"Xing"), xing.find(b"Info"))
    xing[at + 4 : at + 16] = b"\x00\x00\x00\x0f" + b"\xff" * 8
    yield "mp3: 2^32 frames claimed", bytes(xing)
    adts = bytearray(recording("aac"))
    adts[3:6] = bytes((adts[3] | 0x03, 0xFF, adts[5] | 0xE0))
    yield "aac: a frame of 8,191 bytes claimed", bytes(adts)
    yield "aac: sync words only", b"\xff\xf1\x50\x80\x00\xff\xfc" * 20_000


def _matroska() -> Iterator[tuple[str, bytes]]:
    for kind in ("webm", "mkv"):
        whole = recording(kind)
        segment = whole.index(b"\x18\x53\x80\x67") + 4
        for name, size in {
            "unknown": b"\x01" + b"\xff" * 7,
            "2^56 - 2": b"\x01" + b"\xff" * 6 + b"\xfe",
            "0": b"\x01" + bytes(7),
        }.items():
            yield f"{kind}: segment of length {name}", _with(whole, segment, size)
        audio = whole.rindex(b"\xb5\x88", 0, whole.index(b"\x1f\x43\xb6\x75"))
        for name, rate in {"0": 0.0, "-1": -1.0, "1e300": 1e300, "NaN": float("nan")}.items():
            yield f"{kind}: rate {name}", _with(whole, audio + 2, struct.pack(">d", rate))
        tracks = whole.index(b"\x16\x54\xae\x6b")
        nest = b""
        for _ in range(3_000):
            nest = b"\x1c\x53\xbb\x6b\x01" + len(nest).to_bytes(7, "big") + nest
        yield f"{kind}: cues in cues", whole[:tracks] + nest + whole[tracks:]
        nest = b""
        for _ in range(3_000):
            nest = b"\x67\xc8\x01" + len(nest).to_bytes(7, "big") + nest
        tags = b"\x12\x54\xc3\x67\x01" + (len(nest) + 10).to_bytes(7, "big")
        tags += b"\x73\x73\x01" + len(nest).to_bytes(7, "big") + nest
        yield f"{kind}: tags in tags", whole[:tracks] + tags + whole[tracks:]
        yield (
            f"{kind}: a void of 2^56 bytes",
            whole[:tracks] + b"\xec\x01" + b"\xff" * 6 + b"\xf0" + whole[tracks:],
        )
