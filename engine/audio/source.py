"""Opens what a caller hands in (a path, bytes, a file object) as one seekable binary file.

Refuses folders, devices and pipes given as paths, text-mode files, and everything whose first bytes show that it is no
recording.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from scribewire.engine.audio import sniff
from scribewire.engine.protocol.errors import AudioEmpty, AudioFormatUnsupported, AudioUnreadable

ACCEPTED = "wav, flac, mp3, m4a/mp4, ogg, opus, webm, aac, or a video with sound"


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
        head = file.read(sniff.HEAD_BYTES)
        file.seek(0)
    except (OSError, ValueError) as error:
        raise AudioUnreadable(f"the recording could not be read: {reason(error)}") from error
    if not isinstance(head, bytes):
        raise AudioUnreadable("the file object yields text: open it in binary mode")
    if not head:
        raise AudioEmpty("the file is empty (0 bytes): send a recording")
    name = sniff.name_if_not_audio(head)
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
