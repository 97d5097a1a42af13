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
from scribewire.server.jobs.sqlite.columns import AUDIO_ID
from scribewire.server.jobs.store import (
    DataFolderGone,
    DataFolderInUse,
    JobStoreDiskFull,
    JobStoreError,
    JobStoreUnavailable,
    RecordingLost,
)

ORPHANS_FOLDER = "orphans"
TRIAL_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def store_error(error: OSError) -> JobStoreError:
    """The store's error for a failed file operation."""
    if error.errno in _FULL:
        return JobStoreDiskFull("The server has no room on its disk for this job.")
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return DataFolderGone()
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
    """One file per recording, named by a random id. Its methods block, and may be called from any thread.

    Recordings are in `audio/` while a job on disk needs them, and in `incoming/` before that and after it: what a
    killed server leaves there belongs to nobody, unless the database knows it. What is in `audio/` was accepted; if the
    database does not know it any more, it is set aside in `orphans/`.
    """

    def __init__(self, folder: Path, *, is_durable: bool = True) -> None:
        """is_durable: wait until recordings are on the disk; otherwise there is one folder, erased at every start."""
        self.folder = folder
        self._is_durable = is_durable
        self._incoming = folder.parent / "incoming" if is_durable else folder
        self._orphans = folder.parent / ORPHANS_FOLDER

    def make(self) -> None:
        """Make the folders; raises OSError."""
        for folder in (self.folder, self._incoming):
            make_private_folder(folder)

    def take(self, source: Path, sha256: str) -> StoredAudio:
        """Move a file in and flush its bytes to the disk; raises JobStoreError and leaves `source` as it was.

        The folder's entry is on the disk only after `before_commit`.
        """
        audio_id = secrets.token_hex(16)
        target = self._incoming / audio_id
        try:
            if not self._is_durable:
                make_private_folder(self.folder)  # nothing is lost in it that is not lost already
            else:
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

    def before_commit(self, new: Collection[str], removed: Collection[str]) -> None:
        """Prepare a commit: new recordings survive a power failure, removed ones are vouched for no more.

        raises: OSError
        """
        if not self._is_durable:
            return
        self._move(removed, self.folder, self._incoming)
        if new:
            descriptor = os.open(self._incoming, os.O_RDONLY)
            try:
                flush_to_disk(descriptor)
            finally:
                os.close(descriptor)

    def after_commit(self, new: Collection[str], removed: Collection[str], orphaned: Collection[str]) -> None:
        """Put recordings where they belong now, or remove them; raises OSError."""
        if self._is_durable:
            self._move(new, self._incoming, self.folder)
            self.set_aside(orphaned)
        self.remove(removed)

    def _move(self, audio_ids: Collection[str], source: Path, target: Path) -> None:
        for audio_id in filter(AUDIO_ID.fullmatch, audio_ids):
            with contextlib.suppress(FileNotFoundError):
                os.rename(source / audio_id, target / audio_id)

    def path(self, audio_id: str) -> Path:
        """Path of a recording; raises RecordingLost when there is no such file, and OSError."""
        for folder in (self.folder, self._incoming):
            if (folder / audio_id).exists():
                return folder / audio_id
        os.stat(self.folder)  # not lost, if the whole folder cannot be reached
        raise RecordingLost("The recording of this job is not on the server's disk any more.")

    def remove(self, audio_ids: Collection[str]) -> None:
        """Remove recordings from wherever they are; missing ones are no error. raises: OSError"""
        for audio_id in filter(AUDIO_ID.fullmatch, audio_ids):
            for folder in (self._incoming, self.folder, self._orphans):
                (folder / audio_id).unlink(missing_ok=True)

    def sort_out(self, known: Collection[str]) -> tuple[int, list[str]]:
        """Compare the folders with the ids that the database knows.

        Files that were never accepted are removed, also samples of a killed transcoding child; accepted ones that the
        database does not know are set aside. returns: how many were removed, and all that are set aside now
        """
        incoming = self._names(self._incoming)
        self._move(incoming & set(known), self._incoming, self.folder)
        unknown = self._names(self.folder) - set(known)
        orphans = {name for name in unknown if self._is_durable and AUDIO_ID.fullmatch(name)}
        self.set_aside(orphans)
        left = (unknown - orphans) | (incoming - set(known))
        for name in left:
            for folder in (self.folder, self._incoming):
                (folder / name).unlink(missing_ok=True)
        return len(left), sorted(self._names(self._orphans))

    def set_aside(self, audio_ids: Collection[str]) -> None:
        """Move recordings of unknown jobs to the folder of orphans; raises OSError."""
        if audio_ids:
            make_private_folder(self._orphans)
            self._move(audio_ids, self.folder, self._orphans)

    def _names(self, folder: Path) -> set[str]:
        if not folder.is_dir():
            return set()
        return {one.name for one in os.scandir(folder) if not one.is_dir(follow_symlinks=False)}

    def check(self) -> None:
        """Return when a recording could be moved in now; raises JobStoreError."""
        trial = self._incoming / f"trial-{secrets.token_hex(8)}"
        try:
            if not self._is_durable:
                make_private_folder(self.folder)
            try:
                trial.write_bytes(bytes(TRIAL_BYTES))
            finally:
                trial.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(error) from None

    def erase(self) -> None:
        """Remove the folder with its content; raises OSError. A missing one is no error."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
