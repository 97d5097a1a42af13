"""Recordings from the wire to the disk, streamed, counted and bounded.

A form is parsed as it arrives; its recording goes to a 0600 file in a folder of its own under the data folder, its
text fields into memory. The client's file name and type are never used. Nothing stays on disk when anything goes
wrong, and what a killed server left is swept at the next start; a second server on the same data folder is spared.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.auth import FORM_ALLOWANCE_BYTES, upload_too_large
from server.errors import ApiError, bad_request
from server.keys import make_private_folder
from server.logs import log_event

MAX_FIELDS = 100
MAX_FIELD_BYTES = 1 << 20
WRITE_BYTES = 1 << 20
"""Disk writes are collected to this size and done off the event loop."""

UPLOADS_FOLDER = "uploads"
_LOCK_FILE = "lock"

logger = logging.getLogger("scribewire.uploads")


class FormFields:
    """The text fields of a form; `name[]` and `name` are the same list."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """The one value of a field, None when absent; a field sent twice with different values is a 400."""
        values = self._values.get(name, [])
        if len(set(values)) > 1:
            raise bad_request("duplicate_field", f"The field {name} was sent more than once.", name)
        return values[0] if values else None

    def texts(self, name: str) -> list[str]:
        """Every value of a field, in the order sent, comma-joined ones taken apart and empty ones left out."""
        joined = [*self._values.get(name, []), *self._values.get(f"{name}[]", [])]
        return [part.strip() for value in joined for part in value.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording on disk and the fields that came with it; whoever holds it deletes it."""

    path: Path
    size_bytes: int
    fields: FormFields

    def delete(self) -> None:
        """Remove the recording and its folder; again is no error."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete()


class UploadStore:
    """Receives uploads into one private folder under the data folder."""

    def __init__(
        self,
        data_folder: Path,
        *,
        max_upload_bytes: int,
        max_concurrent_uploads: int,
        idle_seconds: float,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._root = data_folder / UPLOADS_FOLDER
        self._max_upload_bytes = max_upload_bytes
        self._max_concurrent_uploads = max_concurrent_uploads
        self._idle_seconds = idle_seconds
        self._write = write
        self._folder: Path | None = None
        self._lock_descriptor = -1
        self._receiving = 0

    def open(self) -> int:
        """Make this server's folder, sweep what dead servers left; returns how many leftovers. Raises OSError."""
        make_private_folder(self._root.parent)
        make_private_folder(self._root)
        self._root.chmod(0o700)
        # Held while a folder exists whose own lock is not taken yet, so that no other start sweeps it.
        starting = os.open(self._root / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(starting, fcntl.LOCK_EX)
            swept = self._sweep()
            folder = self._root / f"server-{secrets.token_hex(8)}"
            folder.mkdir(mode=0o700)
            self._lock_descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX)
        finally:
            os.close(starting)
        self._folder = folder
        return swept

    def close(self) -> None:
        """Remove this server's folder with all in it."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock_descriptor)
            self._folder = None

    def _sweep(self) -> int:
        swept = 0
        for folder in self._root.iterdir():
            if folder.is_symlink() or not folder.is_dir():
                continue
            descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                swept += sum(1 for entry in folder.iterdir() if entry.is_dir())
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                continue  # its server lives
            finally:
                os.close(descriptor)
        if swept:
            log_event(logger, logging.WARNING, "leftover_uploads_removed", count=swept)
        return swept

    async def receive(self, request: Request, *, file_fields: Sequence[str]) -> Upload:
        """Read a multipart form with one recording in a part of one of the given names (or of no name).

        raises: ApiError 400 (not a form, no recording, damaged), 408 (stalled), 413, 429, 507; ClientDisconnect.
        """
        if self._folder is None:
            raise RuntimeError("the upload store is not open")
        boundary = _boundary(request)
        if self._receiving >= self._max_concurrent_uploads:
            raise ApiError(
                429, "too_many_uploads", "Too many uploads at once; try again shortly.", retry_after_seconds=2
            )
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > shutil.disk_usage(self._folder).free:
            raise _disk_full()
        self._receiving += 1
        folder = self._folder / secrets.token_hex(16)
        sink = _Sink(folder / "recording", self._max_upload_bytes, self._write)
        try:
            folder.mkdir(mode=0o700)
            form = _Form(boundary, file_fields, sink)
            await self._pump(request, form, sink)
            return Upload(path=sink.path, size_bytes=sink.size_bytes, fields=form.finish())
        except BaseException as error:
            sink.close()
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                log_event(logger, logging.ERROR, "disk_full")
                raise _disk_full() from None
            raise
        finally:
            sink.close()
            self._receiving -= 1

    async def _pump(self, request: Request, form: _Form, sink: _Sink) -> None:
        async for piece in _stream(request, self._idle_seconds):
            try:
                form.feed(piece)
            except FormParserError as error:
                raise bad_request("form_invalid", f"The multipart form is damaged: {error}") from None
            if sink.pending_bytes >= WRITE_BYTES:
                await asyncio.to_thread(sink.flush)
        if sink.pending_bytes:
            await asyncio.to_thread(sink.flush)


async def _stream(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(
                408,
                "upload_stalled",
                f"The upload sent nothing for {idle_seconds:g} s and was dropped.",
            ) from None
        yield piece


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise bad_request(
            "form_expected", "The request must be multipart/form-data with the recording in the part `file`."
        )
    return boundary


def _disk_full() -> ApiError:
    return ApiError(
        507, "disk_full", "The server has no room on its disk for this recording.", should_retry=False
    )


class _Sink:
    """The recording's file: counts, collects and writes; created with the first byte or at an empty part's end."""

    def __init__(self, path: Path, max_bytes: int, write: Callable[[int, bytes], int]) -> None:
        self.path = path
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._write = write
        self._pending = bytearray()
        self._descriptor = -1

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def create(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def add(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > self._max_bytes:
            raise upload_too_large(self._max_bytes)
        self._pending += data

    def flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        while data:
            data = data[self._write(self._descriptor, data) :]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Form:
    """The parser's callbacks: decides per part whether it is the recording, a text field, or to be dropped."""

    def __init__(self, boundary: bytes, file_fields: Sequence[str], sink: _Sink) -> None:
        self._file_fields = frozenset(file_fields)
        self._file_field = file_fields[0]
        self._sink = sink
        self._values: dict[str, list[str]] = {}
        self._field_count = 0
        self._other_bytes = 0
        self._has_file = False
        self._is_complete = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._kind = ""
        self._name = ""
        self._text = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise bad_request("form_invalid", f"The multipart form is damaged: {error}") from None

    def feed(self, piece: bytes) -> None:
        if piece:
            self._parser.write(piece)

    def finish(self) -> FormFields:
        if not self._is_complete:
            raise bad_request("upload_incomplete", "The upload ends before its form does.")
        if not self._has_file:
            raise bad_request(
                "file_missing",
                f"No recording was sent: the form needs a part named {self._file_field}.",
                self._file_field,
            )
        return FormFields(self._values)

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._text = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name", b"")
        self._name = name.decode("utf-8", "replace")
        is_file = b"filename" in options
        if self._name in self._file_fields or (is_file and not name):
            if self._has_file:
                raise bad_request("duplicate_field", "More than one recording was sent.", self._file_field)
            self._kind, self._has_file = "recording", True
            self._sink.create()
            return
        self._kind = "dropped" if is_file or not name else "text"
        self._field_count += 1
        if self._field_count > MAX_FIELDS:
            raise bad_request("too_many_fields", f"The form has more than {MAX_FIELDS} fields.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._kind == "recording":
            self._sink.add(data[start:end])
            return
        self._other_bytes += end - start
        if self._other_bytes > FORM_ALLOWANCE_BYTES:
            raise ApiError(413, "form_too_large", "The form's fields are too large.")
        if self._kind == "text":
            self._text += data[start:end]
            if len(self._text) > MAX_FIELD_BYTES:
                raise bad_request(
                    "field_too_large", f"The field {self._name[:80]} is larger than 1 MiB.", self._name[:80]
                )

    def _on_part_end(self) -> None:
        if self._kind != "text":
            return
        try:
            value = self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise bad_request("field_not_text", f"The field {self._name[:80]} is not UTF-8.") from None
        self._values.setdefault(self._name, []).append(value)

    def _on_end(self) -> None:
        self._is_complete = True
