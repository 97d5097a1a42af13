"""Processes that a benchmark starts: what they say as they go on, and why they failed."""

from __future__ import annotations

import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

IMPORT_FOLDER = Path(__file__).parents[3]
"""Where `scribewire` lies, so that children import the same one; not resolved, because in a checkout it holds links."""

START_TIMEOUT_SECONDS = 900.0
_STOP_SECONDS = 20.0
_LAST_WORDS_CHARACTERS = 300


class ChildFailed(RuntimeError):
    """The process ended, said nothing in time, or answered with an error; the message is its last words."""


@contextmanager
def started(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Callable[[float], Iterator[str]]]:
    """A process that is stopped with the block; yields its lines on stdout, called with the longest silence in seconds.

    Its lines end with it; they raise ChildFailed when it fails or is silent for longer.
    """
    pipe = subprocess.PIPE
    with (
        # A file, because a pipe that is not read would fill up.
        tempfile.TemporaryFile() as errors,
        # Unbuffered, so that what has come is all there is to wait for.
        subprocess.Popen(
            command,
            cwd=IMPORT_FOLDER,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=errors,
            bufsize=0,
        ) as process,
    ):
        assert process.stdout is not None
        out = process.stdout

        def lines(silence_seconds: float) -> Iterator[str]:
            while select.select([out], [], [], silence_seconds)[0]:
                if line := out.readline():
                    yield line.decode()
                elif process.wait() != 0:
                    raise ChildFailed(f"{name} ended: {last_words(errors)}")
                else:
                    return
            raise ChildFailed(f"{name} said nothing within {silence_seconds:g} s")

        try:
            yield lines
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def last_words(errors: IO[bytes]) -> str:
    """The last line that a process wrote on stderr."""
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][-_LAST_WORDS_CHARACTERS:] if lines else "without a word"
