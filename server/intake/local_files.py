"""Recordings that a request names by their path, only from folders that the operator allowed.

Symbolic links are resolved first; then every folder on the way and the file itself are opened without following any,
so that the file that was checked is the one that is read, also when files are renamed meanwhile. The server's own
folder is known by its device and number, because a disk that ignores case, or a mount, gives it other names. One
refusal for all causes: it reveals nothing about what exists elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from scribewire.server.http.errors import ApiError

_NO_LINKS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = Callable[[int | Path], tuple[int, int]]
"""Device and number of an open descriptor or of a path."""


def identity(where: int | Path) -> tuple[int, int]:
    """Device and number of a file or folder, which are the same under each of its names. raises: OSError"""
    status = os.stat(where)
    return status.st_dev, status.st_ino


class LocalFiles:
    """The allowed folders; `private` is the server's own, which is never among them."""

    def __init__(self, folders: Sequence[str], *, private: Path, identity: Identity = identity) -> None:
        self._folders = [Path(folder).expanduser().resolve() for folder in folders]
        self._private = private
        self._identity = identity

    def check_is_open(self) -> None:
        """Refuse at once where no folder is allowed; raises ApiError 403."""
        if not self._folders:
            raise _refusal()

    def open(self, named: str) -> int:
        """Open a regular file inside an allowed folder for reading; returns the descriptor. Raises ApiError 403."""
        self.check_is_open()
        try:
            if not os.path.isabs(named):
                raise _refusal()
            resolved = Path(os.path.realpath(named))
            for folder in self._folders:
                if resolved.is_relative_to(folder) and resolved != folder:
                    return self._open(folder, resolved.relative_to(folder).parts)
        except (OSError, ValueError):  # missing, unreadable, replaced by a link, or not a path
            raise _refusal() from None
        raise _refusal()

    def _open(self, folder: Path, parts: Sequence[str]) -> int:
        private = {self._identity(self._private)}
        # A mount, or a second name, may show what is inside without the folder itself.
        for one in (*self._private.glob("*"), *self._private.glob("*/*")):
            with contextlib.suppress(FileNotFoundError):
                private.add(self._identity(one))

        def check(where: int | Path) -> None:
            if self._identity(where) in private:
                raise _refusal()

        for above in folder.parents:
            check(above)
        return open_without_links(folder, parts, check)


def open_without_links(
    folder: Path, parts: Sequence[str], check: Callable[[int], None] = lambda descriptor: None
) -> int:
    """Open `folder/part/.../part`, each relative to the one before; raises OSError where one is a symbolic link.

    check: called with the descriptor of each folder on the way and of the file; what it raises is passed on.
    """
    descriptor = os.open(folder, _NO_LINKS | os.O_DIRECTORY)
    try:
        for number, part in enumerate(parts, start=1):
            check(descriptor)
            # Not blocking: opening a named pipe would wait for its writer.
            kind = os.O_DIRECTORY if number < len(parts) else os.O_NONBLOCK
            inner = os.open(part, _NO_LINKS | kind, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        check(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _refusal()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refusal() -> ApiError:
    return ApiError(
        403,
        "file_path_not_allowed",
        "file_path must be the absolute path of a regular file inside a folder that the server was started with "
        "(--allow-local-files).",
        param="file_path",
    )
