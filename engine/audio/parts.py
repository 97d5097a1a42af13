"""Finds where recordings begin and end in a file: joined ones, wrong headers, cut-off ends, bytes left over.

Joined recordings (two WAV files in one, chained Ogg, appended m4a) are parts, each of which is decoded on its own. Only
structure is read here, never sound; a file of another kind is one part, whose end the demuxer finds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

MAX_PARTS = 200
_SCAN_BYTES = 1 << 20
_PATTERN_BYTES = 128  # no pattern matches more


@dataclass(frozen=True, slots=True)
class Part:
    """One recording in a file: `head`, then the file's bytes from `body` to `end`.

    is_cut: its end is missing; None where a live stream may as well have stopped there. is_fragmented: an MP4 whose
    index comes in pieces. states_too_little: its header says that there is less sound. left_bytes: behind it, unknown.
    """

    head: bytes
    body: int
    end: int
    is_cut: bool | None = False
    is_fragmented: bool = False
    states_too_little: bool = False
    left_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes of the recording."""
        return len(self.head) + self.end - self.body


class PartFile:
    """Reads one part of a file. Without a name, so that the library judges by content."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._part = part
        self._position = 0

    def read(self, size: int) -> bytes:
        """At most so many bytes, none at the end."""
        head, at = self._part.head, self._position
        if at < len(head):
            data = head[at : at + size]
        else:
            start = self._part.body + at - len(head)
            self._file.seek(start)
            data = self._file.read(max(0, min(size, self._part.end - start)))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, and return the position."""
        self._position = max(0, offset + (0, self._position, self._part.size)[whence])
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position


def find_parts(file: BinaryIO) -> list[Part]:
    """The recordings in a file, at most MAX_PARTS, in order; never empty. Moves the file's position."""
    size = file.seek(0, 2)
    found: list[Part] = []
    start = 0
    while len(found) < MAX_PARTS:
        part = _part_at(file, start, size)
        start = part.end
        found.append(part)
        if start >= size or part.left_bytes:
            return found
    return [*found[:-1], replace(found[-1], left_bytes=size - start)]


def _part_at(file: BinaryIO, start: int, size: int) -> Part:
    magic = _bytes(file, start, 16)
    # Tags are left out: the library takes minutes for one of many fields.
    while magic[:3] == b"ID3" and start + (length := _id3_bytes(magic)) < size:
        start += length
        magic = _bytes(file, start, 16)
    form = _FORMS.get(magic[:4])
    if form is not None and magic.startswith(form.kind, 8):
        return _chunked(file, start, size, form)
    if magic[4:8] in _FIRST_BOXES:
        return _boxes(file, start, size)
    if magic[:4] == b"fLaC":
        return _flac(file, start, size)
    if magic[:4] == _EBML:
        return _matroska(file, start, size)
    if magic[:5] == b"#!AMR":
        return Part(b"", start, next(_scan(file, start + 5, size, rb"#!AMR(?:-WB)?\n"), size))
    if magic[:4] == b"OggS":
        return _ogg(file, start, size)
    return Part(b"", start, size)


# ---- WAV, RF64, W64, AIFF, CAF: chunks, one of which holds the samples ------------------------------------------


class _Form(NamedTuple):
    """A container of chunks. first: offset of the first one. size_counts: bytes of its header that a size includes."""

    first: int
    header: str  # of a chunk: its name and its size
    data: bytes
    kind: bytes = b"WAVE"
    pad: int = 2
    size_counts: int = 0


_FORMS = {
    b"RIFF": _Form(12, "<4sI", b"data"),
    b"RF64": _Form(12, "<4sI", b"data"),
    b"FORM": _Form(12, ">4sI", b"SSND", b"AIF"),
    b"riff": _Form(40, "<16sQ", b"data", b"\xa5\xd6\x28\xdb", 8, 24),
    b"caff": _Form(8, ">4sQ", b"data", b"desc", 1),
}
_MAX_CHUNKS = 1 << 15
_LARGEST_TRUE = 0x7FFF_0000
"""A recorder that cannot go back leaves a size of 0, or the largest that it knows."""


def _chunked(file: BinaryIO, start: int, size: int, form: _Form) -> Part:
    """Follow the chunks to the next recording or the end; where none follows the samples, they go on."""
    header = struct.Struct(form.header)
    at, samples, size_at, number = start + form.first, 0, 0, "<Q"
    for _ in range(_MAX_CHUNKS):
        if samples and (joint := next((one for one in (at, at - 1) if _bytes(file, one, 4) in _FORMS), 0)):
            return Part(b"", start, joint)
        raw = _bytes(file, at, header.size)
        if len(raw) < header.size:
            return Part(b"", start, size, is_cut=not samples and size - start < _PATTERN_BYTES)
        name, length = header.unpack(raw)
        end = (body := at + header.size) + length - form.size_counts
        if name == b"ds64":
            size_at = body + 8
        elif name.startswith(form.data) and not samples:
            if size_at:  # of RF64
                end = body + int.from_bytes(_bytes(file, size_at, 8), "little")
            else:
                size_at, number = body - struct.calcsize(form.header[-1]), form.header[0] + form.header[-1]
            samples, stated_end = body, end
            is_unknown = end <= body or end - body >= (_LARGEST_TRUE if number[1] == "I" else 1 << 62)
            if is_unknown or end > size:
                break
        elif samples and not (name[:4].isascii() and name[:4].decode().isprintable() and end <= size + 1):
            if is_padding(file, at, size):
                return Part(b"", start, size)
            break
        at = end + (start - end) % form.pad
    if not samples:
        return Part(b"", start, size)
    if samples - start > _SCAN_BYTES or (not is_unknown and stated_end > size):
        return Part(b"", start, size, is_cut=not is_unknown and stated_end > size + _PATTERN_BYTES)
    if not is_unknown and at > stated_end + form.pad:
        return Part(b"", start, at, left_bytes=size - at)
    magic = _bytes(file, start, 16)
    joint_at = next(_scan(file, samples, size, re.escape(magic[:4]) + b"...." + re.escape(magic[8:16])), size)
    head, true = bytearray(_bytes(file, start, samples - start)), joint_at - samples + form.size_counts
    struct.pack_into(number, head, size_at - start, min(true, 0xFFFF_FFFF) if number[1] == "I" else true)
    return Part(bytes(head), samples, joint_at, states_too_little=not is_unknown)


# ---- MP4 ---------------------------------------------------------------------------------------------------------

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")


def _boxes(file: BinaryIO, start: int, size: int) -> Part:
    at, has_index, is_fragmented, has_sound = start, False, False, False
    while at < size:
        raw = _bytes(file, at, 16)
        length, kind = int.from_bytes(raw[:4], "big"), raw[4:8]
        if length == 1 and len(raw) == 16:
            length = int.from_bytes(raw[8:16], "big")
        elif length == 0 and len(raw) >= 8:
            length = size - at
        if at > start and kind == b"ftyp" and has_index:
            return Part(b"", start, at, is_fragmented=is_fragmented)
        if length < 8 or at + length > size:
            # A whole recording may have something else behind it.
            is_whole = has_index and has_sound and not (is_fragmented and kind in (b"moof", b"mdat"))
            is_cut = not is_whole or kind in (b"moof", b"mdat", b"moov")
            left = 0 if is_cut or is_padding(file, at, size) else size - at
            return Part(b"", start, at if left else size, is_cut, is_fragmented, left_bytes=left)
        has_index = has_index or kind == b"moov"
        has_sound = has_sound or kind == b"mdat"
        is_fragmented = is_fragmented or kind == b"moof"
        at += length
    return Part(b"", start, size, False, is_fragmented)


# ---- FLAC, Matroska, Ogg: what begins in the middle is found by its first bytes ----------------------------------


def _flac(file: BinaryIO, start: int, size: int) -> Part:
    """Leaves comments, pictures and the seek table out: the library takes a minute for a million comments."""
    head, at = _bytes(file, start, 42), start + 42
    is_last = len(head) == 42 and bool(head[4] & 0x80)
    if head[4:8] not in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22"):
        return Part(b"", start, size)
    while not is_last:
        block = _bytes(file, at, 4)
        if len(block) < 4:
            return Part(b"", start, size)
        is_last = bool(block[0] & 0x80)
        at += 4 + int.from_bytes(block[1:], "big")
    end = next(_scan(file, at, size, rb"fLaC[\x00\x80]\x00\x00\x22"), size)
    return Part(head[:4] + b"\x80" + head[5:], min(at, end), end)


_MATROSKA_BODIES = (b"\x1f\x43\xb6\x75", b"\x18\x53\x80\x67")
_EBML = b"\x1aE\xdf\xa3"


def _matroska(file: BinaryIO, start: int, size: int) -> Part:
    head = _bytes(file, start, 4096)
    header_length, at = _ebml_size(head, 4)
    segment = at + header_length
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":
        return Part(b"", start, size)
    length, at = _ebml_size(head, segment + 4)
    if length < 0:  # a live recording
        joint = rb"\x1aE\xdf\xa3.{1,64}\x42\x82.(?:webm|matroska)"
        return Part(b"", start, next(_scan(file, start + at, size, joint), size))
    end = start + at + length
    if end >= size:
        return Part(b"", start, size, is_cut=end > size)
    following = _bytes(file, end, 4)
    if following == _EBML:
        return Part(b"", start, end)
    if following in _MATROSKA_BODIES or is_padding(file, end, size):
        return Part(b"", start, size)  # the library reads on
    return Part(b"", start, end, left_bytes=size - end)


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """(value, position after it) of a variable-length size; -1 for "unknown" and for data that end."""
    if at >= len(data) or data[at] == 0:
        return -1, len(data)
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (-1 if value == (1 << 7 * width) - 1 else value), at + width


_OGG_BEGINNING = rb"OggS\x00[\x02\x06\x03\x07]"


def _ogg(file: BinaryIO, start: int, size: int) -> Part:
    """Up to the page that begins another stream of a chain; those at the start belong together."""
    at = start
    while True:
        page = _bytes(file, at, 27 + 255)
        if not re.match(_OGG_BEGINNING, page) or len(page) < 27:
            break
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
    end = next(_scan(file, max(at, start + 1), size, _OGG_BEGINNING), size)
    return Part(b"", start, end, _ogg_is_cut(file, start, end))


def _ogg_is_cut(file: BinaryIO, start: int, end: int) -> bool | None:
    """False when the last page says that it is the last, None when it is whole and does not."""
    file.seek(max(start, end - 65_536 - 300))
    tail = file.read(end - file.tell())
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    sizes = page[27 : 27 + page[26]] if len(page) >= 27 else b""
    if len(page) < 27 or not (page[5] & 0x04 or len(page) >= 27 + page[26] + sum(sizes)):
        return True
    return False if page[5] & 0x04 else None


def _bytes(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _scan(file: BinaryIO, start: int, end: int, pattern: bytes) -> Iterator[int]:
    """Positions at which a pattern of at most _PATTERN_BYTES begins."""
    compiled = re.compile(pattern, re.DOTALL)
    at = start
    while at < end:
        data = _bytes(file, at, min(_SCAN_BYTES + _PATTERN_BYTES, end - at))
        if not data:
            return
        for match in compiled.finditer(data):
            if match.start() < _SCAN_BYTES:
                yield at + match.start()
        at += _SCAN_BYTES


def _id3_bytes(head: bytes) -> int:
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))


_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")


def is_tag(data: bytes) -> bool:
    """True for bytes that belong to no recording: zeros, and tags such as ID3's and APE's."""
    return data.startswith(_TAGS) or not data.strip(b"\x00")


def is_padding(file: BinaryIO, at: int, end: int) -> bool:
    """True when only padding or a tag stands from here to the end; moves the file's position."""
    return is_tag(_bytes(file, at, min(_SCAN_BYTES, end - at)))
