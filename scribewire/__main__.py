"""The `scribewire` program: signals and standard streams first, and then the command.

Imports take most of the first second, so signal handlers are set before them, and before the server sets its own: a
signal then ends the process at once, without a traceback, because nothing has begun yet. A reader of standard output
that is gone (`| head -1`) ends nothing and changes no exit code: what is still written is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import stat
import sys
from typing import Any


def main() -> int:
    """Run the command of this process's arguments; returns the exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        # None where the descriptor is closed (`>&-`); the next file opened would get its number.
        setattr(sys, name, open(os.devnull, mode) if stream is None else _lasting(stream, mode))  # noqa: SIM115 - as long as the process
    is_ours = signal.getsignal(signal.SIGINT) == signal.default_int_handler and sys.argv[1:2] != ["serve"]
    if is_ours:
        signal.signal(signal.SIGINT, lambda *_: _end(2, b"scribewire: interrupted\n", 130))
    elif sys.argv[1:2] == ["serve"]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup has SIGHUP ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: _end(1, b"scribewire: stopped\n", 0))
    from scribewire.server.cli import main as run

    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run()
    if is_ours:
        # While the interpreter ends, an interrupt would be a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def _end(descriptor: int, words: bytes, code: int) -> None:
    # Not by an exception, which an import might catch.
    with contextlib.suppress(OSError):
        os.write(descriptor, words)
    os._exit(code)


class _LastingFile(io.FileIO):
    """A file whose writes succeed also when its reader is gone."""

    def write(self, data: Any, /) -> int:
        """Write, or drop the data where a pipe has no reader and a terminal is closed."""
        try:
            return super().write(data)
        except OSError as error:
            is_terminal = stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            if error.errno != errno.EPIPE and not (error.errno == errno.EIO and is_terminal):
                raise
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def _lasting(stream: Any, mode: str) -> Any:
    """A standard stream as it is, but for writes without a reader."""
    if mode == "r" or not isinstance(stream, io.TextIOWrapper):
        return stream
    file = _LastingFile(stream.fileno(), mode, closefd=False)
    return io.TextIOWrapper(
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


if __name__ == "__main__":
    sys.exit(main())
