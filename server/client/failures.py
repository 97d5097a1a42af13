"""Why a client's command ends, each with its exit code, so that scripts can tell one end from another.

0 done · 1 a job failed or a file was refused · 2 the command line makes no sense · 3 no server · 4 key refused
5 no such job · 130 interrupted
"""

from __future__ import annotations

EXIT_FAILED, EXIT_USAGE, EXIT_NO_SERVER, EXIT_KEY, EXIT_NO_JOB, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130


class ClientFailure(Exception):
    """Base; the message is one line and says what to do."""

    exit_code = EXIT_FAILED


class Refused(ClientFailure):
    """The server understood and said no.

    status: of HTTP. code: of the error object. retry_after_seconds: when to ask again, None when that is of no use.
    """

    def __init__(self, message: str, *, status: int, code: str, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class BadCommand(ClientFailure):
    """What was asked for makes no sense."""

    exit_code = EXIT_USAGE


class NoServer(ClientFailure):
    """Nothing answers, or what answers is no scribewire."""

    exit_code = EXIT_NO_SERVER


class ConnectionLost(NoServer):
    """The server was there and went away in the middle of an answer."""


class KeyRefused(ClientFailure):
    """The server asks for a key, or does not know this one."""

    exit_code = EXIT_KEY


class NoSuchJob(ClientFailure):
    """The server knows no such job of this key."""

    exit_code = EXIT_NO_JOB
