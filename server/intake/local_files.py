"""Recordings that a request names by their path, only from folders that the operator allowed.

Symbolic links are resolved first; then every folder on the way and the file itself are opened without following any,
so that the file that was checked is the one that is read, also when files are renamed meanwhile. One refusal for all
causes: it reveals nothing about what exists elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from scribewire.server.http.errors import ApiError

_NO_LINKS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFiles:
    """The allowed folders; `private` is the server's own, which is never among them."""

    def __init__(self, folders: Sequence[str], *, private: Path) -> None:
        self._folders = [Path(folder).expanduser().resolve() for folder in folders]
        self._private = private.resolve()

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
            if resolved.is_relative_to(self._private):
                raise _refusal()
            for folder in self._folders:
                if resolved.is_relative_to(folder) and resolved != folder:
                    return open_without_links(folder, resolved.relative_to(folder).parts)
        except (OSError, ValueError):  # missing, unreadable, replaced by a link, or not a path
            raise _refusal() from None
        raise _refusal()


def open_without_links(folder: Path, parts: Sequence[str]) -> int:
    """Open `folder/part/.../part`, each relative to the one before; raises OSError where one is a symbolic link."""
    descriptor = os.open(folder, _NO_LINKS | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _NO_LINKS | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Not blocking: opening a named pipe would wait for its writer.
        found = os.open(parts[-1], _NO_LINKS | os.O_NONBLOCK, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise _refusal()
    return found


def _refusal() -> ApiError:
    return ApiError(
        403,
        "file_path_not_allowed",
        "file_path must be the absolute path of a regular file inside a folder that the server was started with "
        "(--allow-local-files).",
        param="file_path",
    )
