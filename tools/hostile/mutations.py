"""Damaged files: the same (format, seed) is always the same damage.

One to four operators are applied one after another. Some know where containers keep their lengths, so that damage
reaches behind the first check; checksums of Ogg pages are mended now and then for the same reason.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes.media_files import FORMATS, recording

Operator = Callable[[random.Random, bytearray], bytearray]

HEADER_BYTES = 512
_EDGES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
)
_LENGTH_AFTER = re.compile(
    rb"RIFF|FORM|fmt |data|LIST|fact|COMM|SSND|fLaC|ID3\x04\x00|TSSE|Xing|Info|vorbis|OpusHead"
)
_LENGTH_BEFORE = re.compile(
    rb"ftyp|moov|mvhd|trak|tkhd|mdia|mdhd|hdlr|minf|stbl|stsd|mp4a|esds|avc1|avcC|stts|stsc|stsz|stco|co64|edts|elst|udta|meta|mdat"
)
_EBML = re.compile(
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x11\x4d\x9b\x74|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b"
    rb"|\x63\xa2|\x86|\xa3|\xae|\xe1|\xb5|\x9f"
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged file, and which operators made it, in order."""

    kind: str
    seed: int
    operators: tuple[str, ...]
    content: bytes


def flip_bits(dice: random.Random, data: bytearray) -> bytearray:
    """One to 64 bits, half of the time all of them in the header."""
    end = min(len(data), HEADER_BYTES) if dice.random() < 0.5 else len(data)
    for _ in range(dice.choice((1, 2, 4, 16, 64))):
        data[dice.randrange(end)] ^= 1 << dice.randrange(8)
    return data


def truncate(dice: random.Random, data: bytearray) -> bytearray:
    """The beginning, sometimes very little of it."""
    return data[: dice.randrange(1, min(len(data), 200) + 1 if dice.random() < 0.3 else len(data) + 1)]


def swap_blocks(dice: random.Random, data: bytearray) -> bytearray:
    """Two blocks of the same length change places."""
    size = dice.choice((4, 16, 64, 256, 1024))
    if len(data) < 2 * size + 2:
        return data
    first, second = sorted((dice.randrange(len(data) - size), dice.randrange(len(data) - size)))
    if second < first + size:
        return data
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    return data


def overwrite_header_field(dice: random.Random, data: bytearray) -> bytearray:
    """A field of the header gets a value from the edge of its range, in either byte order."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(min(len(data), 256))
        _put(data, at, dice.choice((1, 2, 4)), dice.choice(_EDGES), dice.choice(("little", "big")))
    return data


def insert_bytes(dice: random.Random, data: bytearray) -> bytearray:
    """Random bytes, zeros or a copy of another stretch, somewhere."""
    at, size = dice.randrange(len(data) + 1), dice.choice((1, 2, 3, 7, 64, 1000, 5000))
    start = dice.randrange(len(data))
    piece = dice.choice(
        (dice.randbytes(size), bytes(size), b"\xff" * size, bytes(data[start : start + size]))
    )
    data[at:at] = piece
    return data


def delete_bytes(dice: random.Random, data: bytearray) -> bytearray:
    """A stretch goes missing, so that all that follows stands too early."""
    at = dice.randrange(len(data))
    del data[at : at + dice.choice((1, 2, 4, 33, 500, 4000))]
    return data or bytearray(1)


def forge_length(dice: random.Random, data: bytearray) -> bytearray:
    """The length field of a chunk, box, block or element that is really there."""
    places = [(match.end(), 4) for match in _LENGTH_AFTER.finditer(data)]
    places += [(match.start() - 4, 4) for match in _LENGTH_BEFORE.finditer(data) if match.start() >= 4]
    places += [(match.end(), dice.choice((1, 2, 8))) for match in _EBML.finditer(data[:2000])]
    if not places:
        return overwrite_header_field(dice, data)
    for _ in range(dice.choice((1, 1, 2))):
        at, width = dice.choice(places)
        value = dice.choice((*_EDGES, len(data), dice.getrandbits(8 * width)))
        _put(data, at, width, value, dice.choice(("little", "big")))
    return data


def splice(dice: random.Random, data: bytearray) -> bytearray:
    """The beginning of this file and the end of another format's, or the other file whole in the middle."""
    other = recording(dice.choice(FORMATS))
    at = dice.randrange(len(data))
    if dice.random() < 0.5:
        return data[:at] + other[dice.randrange(len(other)) :]
    return data[:at] + other + data[at:]


def forge_ogg_page(dice: random.Random, data: bytearray) -> bytearray:
    """A field of an Ogg page's header; anything else gets a forged length."""
    pages = [match.start() for match in re.finditer(rb"OggS", data) if match.start() + 27 <= len(data)]
    if not pages:
        return forge_length(dice, data)
    page = dice.choice(pages)
    at, width = dice.choice(((4, 1), (5, 1), (6, 8), (14, 4), (18, 4), (22, 4), (26, 1), (27, 1)))
    _put(data, page + at, width, dice.choice((*_EDGES, dice.getrandbits(8 * width))), "little")
    return data


OPERATORS: dict[str, Operator] = {
    "bit flips": flip_bits,
    "truncation": truncate,
    "block swap": swap_blocks,
    "header field": overwrite_header_field,
    "inserted bytes": insert_bytes,
    "deleted bytes": delete_bytes,
    "length field": forge_length,
    "splice": splice,
    "ogg page": forge_ogg_page,
}


def mutant(kind: str, seed: int) -> Mutant:
    """The damaged file of a format and a seed."""
    dice = random.Random(f"{kind}:{seed}")
    data = bytearray(recording(kind))
    names = dice.choices(tuple(OPERATORS), k=dice.choice((1, 1, 2, 3, 4)))
    for name in names:
        data = OPERATORS[name](dice, data)
    if dice.random() < 0.5:
        mend_ogg_checksums(data)
    return Mutant(kind, seed, tuple(names), bytes(data))


def mutant_number(number: int) -> Mutant:
    """Formats in turn, so that any first n mutants are spread evenly over them."""
    seed, kind = divmod(number, len(FORMATS))
    return mutant(FORMATS[kind], seed)


def _put(data: bytearray, at: int, width: int, value: int, order: str) -> None:
    """Write an integer's low bytes, as far as the data reach; the length stays."""
    low = value & ((1 << 8 * width) - 1)
    encoded = struct.pack("<Q" if order == "little" else ">Q", low)
    encoded = encoded[:width] if order == "little" else encoded[-width:]
    data[at : at + width] = encoded[: max(0, len(data) - at)]


_OGG_CRC = []
for _byte in range(256):
    _remainder = _byte << 24
    for _ in range(8):
        _remainder = (
            (_remainder << 1) ^ 0x04C1_1DB7 if _remainder & 0x8000_0000 else _remainder << 1
        ) & 0xFFFF_FFFF
    _OGG_CRC.append(_remainder)


def ogg_checksum(page: bytes | bytearray) -> int:
    """The checksum of an Ogg page whose checksum field is zero. Source: RFC 3533, section 6."""
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFF_FFFF) ^ _OGG_CRC[(value >> 24) ^ byte]
    return value


def mend_ogg_checksums(data: bytearray) -> None:
    """Make the checksum of every Ogg page fit what the page now holds."""
    for match in re.finditer(rb"OggS", data):
        page = match.start()
        if page + 27 > len(data):
            return
        lengths = data[page + 27 : page + 27 + data[page + 26]]
        end = page + 27 + len(lengths) + sum(lengths)
        data[page + 22 : page + 26] = bytes(4)
        data[page + 22 : page + 26] = ogg_checksum(data[page:end]).to_bytes(4, "little")
