"""Failures of a client's command, each with its exit code, so that scripts can distinguish them.

0 done · 1 a job failed or a file was refused · 2 the command line makes no sense · 3 no server · 4 key refused
5 no such job · 130 interrupted
"""

from __future__ import annotations

EXIT_FAILED, EXIT_USAGE, EXIT_NO_SERVER, EXIT_KEY, EXIT_NO_JOB, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130


class ClientFailure(Exception):
    """Base of all failures; the message is one line with a remedy."""

    exit_code = EXIT_FAILED


class Refused(ClientFailure):
    """The server refused the request.

    status: of HTTP. code: of the error object. retry_after_seconds: pause before a retry, None when it is useless.
    """

    def __init__(self, message: str, *, status: int, code: str, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class BadCommand(ClientFailure):
    """The command line is invalid."""

    exit_code = EXIT_USAGE


class NoServer(ClientFailure):
    """Nothing answers, or the answer is not from scribewire."""

    exit_code = EXIT_NO_SERVER


class ConnectionLost(NoServer):
    """The connection was lost in the middle of an answer."""


class KeyRefused(ClientFailure):
    """The server requires a key, or does not accept this one."""

    exit_code = EXIT_KEY


class NoSuchJob(ClientFailure):
    """The server has no such job of this key."""

    exit_code = EXIT_NO_JOB
