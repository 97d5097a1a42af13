"""What a caller hands in, before a decoder sees it: opened as one seekable binary file, and refused by what it shows.

Refuses folders, devices and pipes given as paths, text-mode files, and everything whose first bytes show that it is no
recording, by its name. Only magic numbers and "is this text" are examined; file names and MIME types are not. What
could be audio is not refused: the demuxers have the last word on everything that is not recognized here.

A file that holds next to no bytes for its audio is counted to its end before it is transcoded. Speech needs 700 bytes a
second even at a codec's lowest rate. What needs less than 100 is silence, or a bomb: a few kilobytes that hold days.
Decoding it up to the limit would take minutes; counting it takes about a second.
"""

from __future__ import annotations

import io
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import av
import av.audio.stream
import av.container

from scribewire.engine.audio.pcm import check_duration
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import AudioEmpty, AudioFormatUnsupported, AudioUnreadable

ACCEPTED = "wav, flac, mp3, m4a/mp4, ogg, opus, webm, aac, or a video with sound"

HEAD_BYTES = 4096

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF87a", "a GIF image"),
    (0, b"GIF89a", "a GIF image"),
    (0, b"II*\x00", "a TIFF image"),
    (0, b"MM\x00*", "a TIFF image"),
    (0, b"\x00\x00\x01\x00", "an icon"),
    (8, b"WEBP", "a WebP image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive or an office document"),
    (0, b"PK\x05\x06", "an empty ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"SQLite format 3\x00", "a database"),
)

_PLAYLIST_STARTS = ("#extm3u", "ffconcat", "[playlist]", "v=0")

_CONTAINER_MAGIC: tuple[tuple[int, bytes], ...] = (
    (0, b"RIFF"),
    (0, b"RF64"),
    (0, b"FORM"),
    (0, b"fLaC"),
    (0, b"OggS"),
    (0, b"ID3"),
    (0, b"\x1aE\xdf\xa3"),
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (0, b"caff"),
    (0, b".snd"),
    (0, b"#!AMR"),
    (0, b"\x0b\x77"),
    (0, b"riff\x2e\x91\xcf\x11"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    (0, b"\x00\x00\x01\xba"),
)

SPARSE_BYTES_PER_SECOND = 100.0
FIRST_CHECK_SECONDS = 60.0


def open_source(source: str | Path | bytes | BinaryIO) -> tuple[BinaryIO, bool]:
    """A seekable file at its beginning, and True when the caller of this function must close it.

    A file object that cannot seek (a pipe) is first copied to an unnamed temporary file.
    raises: AudioUnreadable
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), True
    if isinstance(source, str | Path):
        return _open_path(Path(source)), True
    try:
        if source.seekable():
            source.seek(0)
            return source, False
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the stream that will own it
        try:
            shutil.copyfileobj(source, copy)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise AudioUnreadable(f"the file object cannot be read: {reason(error)}") from error
    return copy, True


def first_bytes(file: BinaryIO) -> bytes:
    """The head of a file; its position is left at the beginning.

    raises: AudioEmpty, AudioUnreadable, and AudioFormatUnsupported for what is certainly no recording
    """
    try:
        head = file.read(HEAD_BYTES)
        file.seek(0)
    except (OSError, ValueError) as error:
        raise AudioUnreadable(f"the recording could not be read: {reason(error)}") from error
    if not isinstance(head, bytes):
        raise AudioUnreadable("the file object yields text: open it in binary mode")
    if not head:
        raise AudioEmpty("the file is empty (0 bytes): send a recording")
    name = name_if_not_audio(head)
    if name is not None:
        raise AudioFormatUnsupported(f"the file is {name}, not a recording: send {ACCEPTED}")
    return head


def reason(error: Exception) -> str:
    """The first line of an error, without the path it names."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def _open_path(path: Path) -> BinaryIO:
    shown = repr(str(path))
    try:
        if path.is_dir():
            raise AudioUnreadable(f"{shown} is a folder: name a file in it")
        if path.exists() and not path.is_file():
            raise AudioUnreadable(f"{shown} is no regular file: save the recording to one first")
        return path.open("rb")
    except FileNotFoundError as error:
        raise AudioUnreadable(f"{shown} does not exist: check the path") from error
    except PermissionError as error:
        raise AudioUnreadable(f"{shown} may not be read: check its permissions") from error
    except (OSError, ValueError) as error:
        raise AudioUnreadable(f"{shown} cannot be opened: {reason(error)}") from error


def name_if_not_audio(head: bytes) -> str | None:
    """Name of the file's kind ("a PNG image", "text", ...) when it is certainly no recording, else None.

    head: the first HEAD_BYTES of the file, or all of a shorter one
    """
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[:2] == b"BM" and len(head) > 10 and head[6:10] == b"\x00\x00\x00\x00":
        return "a BMP image"
    text = _as_text(head)
    if text is None:
        return None
    start = text.lstrip("\ufeff \t\r\n")[:200].lower()
    if start.startswith(_PLAYLIST_STARTS) or "<mpd" in start or "<smil" in start or "<playlist" in start:
        return "a playlist"
    if start.startswith(("<!doctype html", "<html")) or "<html" in start:
        return "an HTML page"
    if start.startswith("<svg") or "<svg" in start:
        return "an SVG image"
    return "text"


def is_known_container(head: bytes) -> bool:
    """True when the file starts as an accepted container does; a failure to open it then means damage or a cut."""
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # the sync word of mp3 and ADTS
        return True
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _CONTAINER_MAGIC)


def mp3_frame_count(head: bytes) -> int | None:
    """Number of frames that an MP3's Xing or Info header states; None where the duration is an estimate.

    head: its first 400 bytes, without tags
    """
    at = max(head.find(b"Xing"), head.find(b"Info"))
    return int.from_bytes(head[at + 8 : at + 12], "big") if at >= 0 and head[at + 7] & 1 else None


def _as_text(head: bytes) -> str | None:
    """The head as text when it is text; zero bytes are no text."""
    if not head:
        return None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = head[: len(head) // 2 * 2].decode("utf-16", errors="replace")
    else:
        if b"\x00" in head:
            return None
        text = head.decode("utf-8", errors="replace")
    strange = sum(1 for character in text if not (character.isprintable() or character in "\r\n\t\f\ufeff"))
    # The last character may be cut by the end of the head.
    return text if strange <= len(text) // 50 and "\ufffd" not in text[:-3] else None


class SparseWatch:
    """Checks the rate since the last check after a minute, two, four and so on, until it found it sparse once."""

    def __init__(self) -> None:
        self._packet_bytes = 0
        self._last_check = (0.0, 0)
        self._next_check_seconds = FIRST_CHECK_SECONDS

    def add_packet(self, size_bytes: int) -> None:
        """Count a packet that was decoded."""
        self._packet_bytes += size_bytes

    def finds_sparse(self, position_seconds: float) -> bool:
        """True when the file should be counted to its end now; so once at most."""
        if position_seconds <= self._next_check_seconds:
            return False
        seconds, size_bytes = position_seconds - self._last_check[0], self._packet_bytes - self._last_check[1]
        is_sparse = size_bytes < SPARSE_BYTES_PER_SECOND * seconds
        self._last_check = (position_seconds, self._packet_bytes)
        self._next_check_seconds = math.inf if is_sparse else 2.0 * position_seconds
        return is_sparse


def check_counted_duration(
    container: av.container.InputContainer,
    track: av.audio.stream.AudioStream,
    limits: AudioLimits,
    *,
    on_packet: Callable[[], None],
) -> None:
    """Raise AudioTooLong as soon as the packets of a track last longer than the limit.

    container: freshly opened. on_packet: called often, for it takes a second; may raise to end it.
    Lets what the library raises for a damaged container out.
    """
    seconds = 0.0
    tick_seconds = float(track.time_base or 0)
    for packet in container.demux(track):
        on_packet()
        if packet.duration:
            seconds += packet.duration * tick_seconds
        else:  # only the samples show the duration
            seconds += _transcoded_seconds(packet)
        check_duration(seconds - 1.0, limits)  # a second of slack, for what a decoder leaves out at its start


def _transcoded_seconds(packet: av.Packet[av.audio.stream.AudioStream]) -> float:
    try:
        return sum(frame.samples / (frame.sample_rate or 1) for frame in packet.decode())
    except Exception:  # of many types; a damaged packet is left out here as in transcoding
        return 0.0
