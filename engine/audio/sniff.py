"""Recognize from its first bytes a file that is no recording, so that the refusal can name it.

Only magic numbers and "is this text" are examined; file names and MIME types are not. Nothing is refused here that
could be audio: the demuxers have the last word on everything that this module does not recognize.
"""

from __future__ import annotations

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
