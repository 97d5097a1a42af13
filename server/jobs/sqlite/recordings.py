"""Recordings of jobs as files: private, durable before a job is answered, and removed when no job needs them.

One server at a time uses a folder of jobs; `FolderLock` ensures that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from scribewire.server.access.keys import make_private_folder
from scribewire.server.jobs.job import StoredAudio
from scribewire.server.jobs.store import DataFolderInUse, JobStoreDiskFull, JobStoreError, JobStoreUnavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def store_error(error: OSError) -> JobStoreError:
    """The store's error for a failed file operation."""
    if error.errno in _FULL:
        return JobStoreDiskFull("The server has no room on its disk for this job.")
    return JobStoreUnavailable(f"The job store's files cannot be used: {error.strerror or error}.")


def flush_to_disk(descriptor: int) -> None:
    """Return when the written bytes are on the disk, not only in its cache.

    Source: macOS's fsync(2), which recommends F_FULLFSYNC for that; not every file system has it.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(descriptor, full_sync)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(descriptor)


class FolderLock:
    """Lock held by the one server that uses a folder, and released by the system when that server dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> None:
        """Take the lock; raises DataFolderInUse, OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise DataFolderInUse(
                f"another server (process {process or 'unknown'}) uses the data folder {self._path.parent.parent}; "
                "stop it, or give this one a folder of its own with --data"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; releasing it again is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class AudioFolder:
    """One file per recording, named by a random id. Its methods block, and may be called from any thread."""

    def __init__(self, folder: Path, *, is_durable: bool = True) -> None:
        """is_durable: wait until recordings are on the disk; otherwise the system decides when to write them."""
        self.folder = folder
        self._is_durable = is_durable

    def make(self) -> None:
        """Make the folder; raises OSError."""
        make_private_folder(self.folder)

    def take(self, source: Path, sha256: str) -> StoredAudio:
        """Move a file in and flush its bytes to the disk; raises JobStoreError and leaves `source` as it was.

        The folder's entry is on the disk only after `flush`.
        """
        audio_id = secrets.token_hex(16)
        target = self.folder / audio_id
        try:
            if self._is_durable:
                with source.open("rb") as stream:
                    flush_to_disk(stream.fileno())
            size_bytes = source.stat().st_size
            try:
                os.rename(source, target)
                target.chmod(0o600)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._copy(source, target)
                source.unlink()
        except OSError as error:
            raise store_error(error) from None
        return StoredAudio(audio_id, size_bytes, sha256)

    def _copy(self, source: Path, target: Path) -> None:
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with source.open("rb") as old, os.fdopen(descriptor, "wb") as new:
                shutil.copyfileobj(old, new, 1 << 20)
                new.flush()
                flush_to_disk(new.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def flush(self) -> None:
        """Flush the folder's entries to the disk; raises OSError."""
        if not self._is_durable:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            flush_to_disk(descriptor)
        finally:
            os.close(descriptor)

    def path(self, audio_id: str) -> Path:
        """Path of a recording."""
        return self.folder / audio_id

    def remove(self, audio_ids: Collection[str]) -> None:
        """Remove recordings; missing ones are no error."""
        for audio_id in audio_ids:
            self.path(audio_id).unlink(missing_ok=True)

    def remove_all_but(self, known: Collection[str]) -> int:
        """Remove files that belong to no job, also samples of a killed transcoding child; returns their count."""
        removed = 0
        for entry in os.scandir(self.folder):
            if entry.name not in known and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                removed += 1
        return removed

    def erase(self) -> None:
        """Remove the folder with its content; raises OSError. A missing one is no error."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
