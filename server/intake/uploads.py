"""Recordings from the network to the disk, streamed, counted and bounded.

A form is parsed as it arrives; its recording is written to a 0600 file in its own folder under the data folder. A JSON
body is itself written to such a file, and parsed in a thread once it is whole, so many bytes of JSON at a time. Nothing
stays on disk after a failure, and files of a killed server are removed at the next start, but not those of a second
server on the same data folder. Admission is decided, and counted, before a body's first byte is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

from starlette.requests import ClientDisconnect, Request

from scribewire.server.access.gate import LOCAL_OWNER, declares_json, json_too_large
from scribewire.server.access.keys import make_private_folder
from scribewire.server.access.limits import KeyLimits, Lease, over_limit
from scribewire.server.http.errors import ApiError, bad_request, disk_full
from scribewire.server.intake.form import FormFields as FormFields  # most callers know it from here
from scribewire.server.intake.form import MultipartBody, fields_from_json
from scribewire.server.intake.job_request import JobRequest
from scribewire.server.intake.json_body import parse_json
from scribewire.server.intake.local_files import LocalFiles
from scribewire.server.intake.receiving import RecordingFile, UploadPace
from scribewire.server.observability.logs import log_event
from scribewire.server.settings.fields import Settings

RATE_WINDOW_SECONDS = 10.0
"""An upload's speed is measured over windows of this much waiting for its client."""

LEAST_FREE_BYTES = 1 << 20
WRITING_THREADS = 4

MAX_PARSING_BYTES = 128 << 20
"""Bytes of JSON bodies that are parsed at any time, by one thread or more; further ones wait, though not for long."""
PARSING_WAIT_SECONDS = 10.0

SLICE_BYTES = 32 << 10
SLOW_SLICE_SECONDS = 0.0005
"""A slice of a form that takes longer to parse than any that holds a recording takes; see `_read_form`."""

PARAMETER_NAMES = frozenset(JobRequest.model_fields)
"""What is kept of a form."""

UPLOADS_FOLDER = "uploads"
_LOCK_FILE = "lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger("scribewire.uploads")


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording on disk with its form fields; its holder deletes it.

    sha256: hex digest of the recording's bytes, computed while they were written
    lease: its share of its key's limits, released when its folder is deleted; it goes with a recording that is moved
    executor: its threads remove the recording; None to remove it in the calling thread
    """

    path: Path
    size_bytes: int
    sha256: str
    fields: FormFields
    lease: Lease | None = field(default=None, repr=False, compare=False)
    executor: Executor | None = field(default=None, repr=False, compare=False)

    async def delete(self) -> None:
        """Remove the recording and its folder, off the event loop, because gigabytes take time.

        Deleting again, or after a move, is no error. Cancelling the awaiting task does not stop the removal.
        """
        removal = self.begin_delete()
        if not removal.done():
            await asyncio.shield(asyncio.wrap_future(removal))

    def begin_delete(self) -> Future[None]:
        """`delete` without waiting; the future is done when nothing is left."""
        was_here = self.path.parent.exists()
        if self.executor is not None:
            # A closed store has no threads.
            with contextlib.suppress(RuntimeError):
                return self.executor.submit(self._remove, was_here)
        self._remove(was_here)
        removal: Future[None] = Future()
        removal.set_result(None)
        return removal

    def _remove(self, was_here: bool) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)
        if was_here and self.lease is not None:
            self.lease.release()

    async def __aenter__(self) -> Upload:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.delete()


class UploadStore:
    """Receives uploads into one private folder under the data folder."""

    def __init__(
        self,
        data_folder: Path,
        *,
        max_upload_bytes: int,
        max_concurrent_uploads: int,
        idle_seconds: float,
        min_bytes_per_second: int = 0,
        rate_window_seconds: float = RATE_WINDOW_SECONDS,
        max_json_body_bytes: int = 40 << 20,
        parsing_wait_seconds: float = PARSING_WAIT_SECONDS,
        limits: KeyLimits | None = None,
        local_folders: Sequence[str] = (),
        write: Callable[[int, bytes | memoryview], int] = os.write,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._root = data_folder / UPLOADS_FOLDER
        self._receiving = 0
        self._max_upload_bytes = max_upload_bytes
        self._max_json_body_bytes = max_json_body_bytes
        self._max_concurrent_uploads = max_concurrent_uploads
        self._new_pace = partial(
            UploadPace,
            idle_seconds=idle_seconds,
            min_bytes_per_second=min_bytes_per_second,
            window_seconds=rate_window_seconds,
            is_scarce=lambda: 2 * self._receiving >= max_concurrent_uploads,
        )
        self._limits = limits or KeyLimits()
        self._local_files = LocalFiles(local_folders, private=data_folder)
        self._write = write
        self._free_bytes = free_bytes
        self._executor = ThreadPoolExecutor(WRITING_THREADS, thread_name_prefix="upload-writer")
        threads = min(3, max(1, MAX_PARSING_BYTES // max_json_body_bytes))
        self._parsers = ThreadPoolExecutor(threads, thread_name_prefix="json-parser")
        self._parsing = asyncio.Semaphore(threads)
        self._parsing_wait_seconds = parsing_wait_seconds
        self._slow_parsing = asyncio.Lock()
        self._folder: Path | None = None
        self._lock_descriptor = -1
        self._data_identity = (0, 0)
        self.received_count = 0
        self.received_bytes = 0
        """Bytes of uploads received whole."""
        self.refused_counts: Counter[str] = Counter()
        """Failed uploads by error code."""

    @classmethod
    def from_settings(cls, settings: Settings, limits: KeyLimits) -> UploadStore:
        """A store with the limits of the settings."""
        return cls(
            settings.data,
            max_upload_bytes=settings.max_upload_bytes,
            max_json_body_bytes=settings.max_json_body_bytes,
            max_concurrent_uploads=settings.max_concurrent_uploads,
            idle_seconds=settings.upload_idle_seconds,
            min_bytes_per_second=settings.min_upload_bytes_per_second,
            limits=limits,
            local_folders=settings.allow_local_files,
        )

    def open(self) -> int:
        """Make this server's folder, remove those of dead servers; returns the number removed. Raises OSError."""
        make_private_folder(self._root.parent)
        make_private_folder(self._root)
        self._root.chmod(0o700)
        # Held while a folder exists without its own lock, so that no other server's start removes it.
        starting = os.open(self._root / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        status = self._root.parent.stat()
        self._data_identity = (status.st_dev, status.st_ino)
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

    def check(self) -> None:
        """Try what an upload does; blocks. raises: ApiError 503, 507"""
        trial = self._present_folder() / f"trial-{secrets.token_hex(8)}"
        if not self.has_room:
            raise disk_full()
        try:
            trial.write_bytes(bytes(4096))
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise disk_full() from None
            raise _unusable(f"cannot be written: {error.strerror}") from None
        finally:
            trial.unlink(missing_ok=True)

    def _present_folder(self) -> Path:
        """This server's folder, made again when it was removed; raises ApiError 503 when the data folder is gone."""
        if self._folder is None:
            raise RuntimeError("the upload store is not open")
        if self._folder.is_dir():
            return self._folder
        with contextlib.suppress(OSError):
            status = self._root.parent.stat()
            if (status.st_dev, status.st_ino) == self._data_identity:
                os.close(self._lock_descriptor)
                self.open()
                log_event(logger, logging.WARNING, "uploads_folder_made_again")
                return self._folder
        raise _unusable("was removed, replaced or unmounted while the server ran")

    def close(self) -> None:
        """Remove this server's folder with its content."""
        self._parsers.shutdown()
        self._executor.shutdown()
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
                continue  # its server is running
            finally:
                os.close(descriptor)
        if swept:
            log_event(logger, logging.WARNING, "leftover_uploads_removed", count=swept)
        return swept

    async def receive(self, request: Request, *, file_fields: Sequence[str]) -> Upload:
        """Read a form, or a JSON object, with one recording.

        file_fields: names of the part that may hold it, besides a part without a name
        raises: ApiError 400 (no such body, no recording, damaged), 403 (a path that is not allowed), 408 (stalled, too
        slow), 413, 429, 503 (too much JSON at once), 507; ClientDisconnect.
        """
        try:
            upload = await self._receive(request, file_fields)
        except ApiError as error:
            self.refused_counts[error.code] += 1
            raise
        except ClientDisconnect:
            self.refused_counts["client_gone"] += 1
            raise
        self.received_count += 1
        self.received_bytes += upload.size_bytes
        return upload

    async def _receive(self, request: Request, file_fields: Sequence[str]) -> Upload:
        own_folder = self._present_folder()
        folder = own_folder / secrets.token_hex(16)
        new_file = partial(RecordingFile, executor=self._executor, write=self._write)
        file = new_file(folder / "recording", max_bytes=self._max_upload_bytes)
        body: MultipartBody | RecordingFile
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise bad_request("bad_request", "A body with a Content-Encoding is not read; send it as it is.")
        if declares_json(request.headers):
            body = new_file(folder / "body", max_bytes=self._max_json_body_bytes, too_large=json_too_large)
        else:
            body = MultipartBody(request.headers.get("content-type", ""), file_fields, file, PARAMETER_NAMES)
        # No await between the first check and the count, so that racing requests cannot all pass as the last one.
        self._check_room(request, own_folder)
        lease = self._limits.admit(getattr(request.state, "owner", LOCAL_OWNER))
        self._receiving += 1
        try:
            folder.mkdir(mode=0o700)
            if isinstance(body, MultipartBody):
                fields = await self._read_form(request, body, file)
            else:
                fields = await self._read_json(request, body, file)
            return Upload(file.path, file.size_bytes, file.sha256, fields, lease, self._executor)
        except BaseException as error:
            file.close()
            shutil.rmtree(folder, ignore_errors=True)
            lease.release()
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                log_event(logger, logging.ERROR, "disk_full")
                raise disk_full() from None
            raise
        finally:
            file.close()
            body.close()
            lease.end_upload()
            self._receiving -= 1

    @property
    def under_way(self) -> int:
        """Number of uploads being received."""
        return self._receiving

    @property
    def has_room(self) -> bool:
        """True when the disk has room for any recording at all."""
        return self._free_bytes(self._folder or self._root.parent) >= LEAST_FREE_BYTES

    def _check_room(self, request: Request, folder: Path) -> None:
        if self._receiving >= self._max_concurrent_uploads:
            raise over_limit("too_many_uploads", "Too many uploads at once.", 2.0)
        declared = request.headers.get("content-length", "")
        wanted = int(declared) if declared.isdigit() else 0
        if max(wanted, LEAST_FREE_BYTES) > self._free_bytes(folder):
            raise disk_full()

    async def _read_form(self, request: Request, form: MultipartBody, file: RecordingFile) -> FormFields:
        async for piece in self._new_pace().pieces(request):
            for start in range(0, len(piece), SLICE_BYTES):
                # What is slow to parse, whoever sent it, is parsed one slice in each turn of the event loop.
                async with self._slow_parsing:
                    started = time.perf_counter()
                    form.feed(piece[start : start + SLICE_BYTES])
                    if time.perf_counter() - started > SLOW_SLICE_SECONDS:
                        await asyncio.sleep(0)
            await file.write_if_full()
        fields = form.finish()
        await file.finish()
        return fields

    async def _read_json(self, request: Request, body: RecordingFile, file: RecordingFile) -> FormFields:
        def parse() -> tuple[FormFields, str | None]:
            parameters, named = parse_json(body.path, file)
            body.path.unlink()
            return fields_from_json(parameters), named

        body.create()
        async for piece in self._new_pace().pieces(request):
            body.add(piece)
            await body.write_if_full()
        await body.finish()
        try:
            async with asyncio.timeout(self._parsing_wait_seconds):
                await self._parsing.acquire()
        except TimeoutError:
            raise ApiError(503, "too_much_json", "Too much JSON at once; try again, or send forms.") from None
        try:
            fields, named = await file.filled_by(parse, self._parsers)
        finally:
            self._parsing.release()
        if named is not None:
            self._local_files.check_is_open()
            file.create()
            await file.filled_by(lambda: file.copy(lambda: self._local_files.open(named)))
        return fields


def _unusable(why: str) -> ApiError:
    return ApiError(
        503, "data_folder_gone", f"The server's folder for recordings {why}.", retry_after_seconds=5
    )
