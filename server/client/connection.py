"""One server over HTTP: requests, and their failures as one line with a remedy."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

import httpx

from scribewire.server.access.keys import is_loopback
from scribewire.server.client.failures import (
    BadCommand,
    ClientFailure,
    ConnectionLost,
    KeyRefused,
    NoServer,
    NoSuchJob,
    Refused,
)
from scribewire.server.client.proxy import proxy_for
from scribewire.server.http.certificates import machine_certificates

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
EVENT_SILENCE_SECONDS = 60.0
"""The server sends a keep-alive on a stream of events well before that."""

_JOB_ID = r"job_[0-9a-f]{32}"


class Counted(Protocol):
    """Callback for the number of bytes sent, and of all bytes."""

    def __call__(self, done: float, total: float, /) -> None: ...


def server_url(given: str) -> str:
    """URL without a trailing slash, from `host`, `host:port` or a URL; raises BadCommand."""
    text = given.strip()
    with contextlib.suppress(ValueError, httpx.InvalidURL):  # brackets, a port or a name that cannot be read
        parts = urlsplit(text if "://" in text else f"http://{text}")
        httpx.URL(parts.geturl()).host.encode("idna")
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        if is_sound and not parts.query and not parts.fragment:
            return parts.geturl().rstrip("/")
    raise BadCommand(f"{given!r} is no server's address; write it as http://HOST:PORT")


class ServerConnection:
    """Connection to a server, used as a context manager. Every method may raise a ClientFailure."""

    def __init__(self, url: str, key: str | None) -> None:
        """url: as `server_url` gives it. key: an API key, or None."""
        self.url = url
        self._has_key = bool(key)
        headers = {"user-agent": "scribewire-client"}
        if key:
            if not re.fullmatch(r"[\x21-\x7e]+", key):
                raise BadCommand("the key has characters that no key has; is it whole, and on one line?")
            headers["authorization"] = f"Bearer {key}"
        proxy = proxy_for(url)
        certificates = machine_certificates(heeds_environment=not is_loopback(urlsplit(url).hostname or ""))
        try:
            httpx.URL(proxy or url).host.encode("idna")
            self._client = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                verify=certificates,
                proxy=proxy,
                trust_env=False,
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise BadCommand(f"the proxy of the environment cannot be used: {error}") from None

    def __enter__(self) -> ServerConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    # ---- jobs ------------------------------------------------------------------------------------------------

    def submit(
        self,
        recording: BinaryIO,
        name: str,
        fields: dict[str, str],
        *,
        idempotency_key: str,
        counted: Counted,
    ) -> dict[str, Any]:
        """Upload a recording from its beginning; returns the server's answer with the new job."""
        recording.seek(0)
        answer = self._send(
            "POST",
            "/transcribe",
            # The file's own name is a field; this one cannot break the form.
            files={
                "audio": (re.sub(r"[^\w.-]", "_", name)[-80:] or "audio", _CountedFile(recording, counted))
            },
            data=fields,
            headers={"idempotency-key": idempotency_key},
        )
        return _object(answer)

    def job(self, job_id: str) -> dict[str, Any]:
        """A job with all its data."""
        return _object(self._send("GET", _job_path(job_id)))

    def result(self, job_id: str, result_format: str) -> str:
        """A completed job's transcript in this format."""
        answer = self._send("GET", f"{_job_path(job_id)}/result", params={"format": result_format})
        return answer.text

    def delete(self, job_id: str) -> dict[str, Any]:
        """Cancel an unfinished job, erase a finished one."""
        return _object(self._send("DELETE", _job_path(job_id)))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel an unfinished job; a finished one stays as it is."""
        return _object(self._send("POST", f"{_job_path(job_id)}/cancel"))

    def retry(self, job_id: str) -> dict[str, Any]:
        """Queue a failed job again."""
        return _object(self._send("POST", f"{_job_path(job_id)}/retry"))

    def jobs(self, *, status: str | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The key's jobs, newest first, at most `limit` or all."""
        left, cursor = limit, None
        while left is None or left > 0:
            asked: dict[str, str] = {"limit": str(100 if left is None else min(left, 100))}
            asked |= {"status": status} if status else {}
            asked |= {"cursor": cursor} if cursor else {}
            page = _object(self._send("GET", "/jobs", params=asked))
            yield from page["data"]
            left = None if left is None else left - len(page["data"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    @contextlib.contextmanager
    def events(
        self, job_id: str, *, after_id: int = 0
    ) -> Iterator[Iterator[tuple[int, str, dict[str, Any]]]]:
        """The job's events after an id, as (id, kind, data), live."""
        request = self._client.build_request(
            "GET",
            f"{_job_path(job_id)}/events",
            headers={"last-event-id": str(after_id), "accept": "text/event-stream"},
            timeout=httpx.Timeout(EVENT_SILENCE_SECONDS, connect=CONNECT_SECONDS),
        )
        with self._failures_mapped():
            answer = self._client.send(request, stream=True)
            try:
                if answer.status_code != 200:
                    answer.read()
                    self._check(answer)
                yield self._parsed(answer)
            finally:
                answer.close()

    def _parsed(self, answer: httpx.Response) -> Iterator[tuple[int, str, dict[str, Any]]]:
        event_id, kind, data = 0, "", ""
        with self._failures_mapped():
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if not line and kind:
                    yield event_id, kind, json.loads(data)
                    kind = ""
                elif name == "id":
                    event_id = int(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    data = value

    def readiness(self) -> dict[str, Any]:
        """The model that is loaded; raises Refused where no recordings are accepted."""
        return _object(self._send("GET", "/health/ready"))

    def metrics(self) -> str:
        """The server's figures in Prometheus' text format."""
        return self._send("GET", "/metrics").text

    def now(self) -> float:
        """The server's clock in Unix seconds, for the ages of its jobs."""
        answer = self._send("GET", "/health/live")
        try:
            return parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return time.time()

    # ---- failures --------------------------------------------------------------------------------------------

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        with self._failures_mapped():
            answer = self._client.request(method, path, **content)
        self._check(answer)
        return answer

    @contextlib.contextmanager
    def _failures_mapped(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            way = "start one with `scribewire serve`, or name another with --server"
            if not is_loopback(urlsplit(self.url).hostname or ""):
                way = "is it running, and reachable from here? --server names another"
            raise NoServer(f"no server answers at {self.url} ({error}); {way}") from None
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise ConnectionLost(f"the connection to {self.url} was lost ({what})") from None
        except httpx.InvalidURL as error:
            raise BadCommand(f"{self.url} is no server's address: {error}") from None

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        message, code = _error_of(answer)
        if answer.status_code == 401:
            hint = "this key was refused" if self._has_key else "give one with SCRIBEWIRE_KEY or --key"
            raise KeyRefused(f"{self.url}: {message} ({hint})")
        if code == "job_not_found":
            raise NoSuchJob(message)
        if code is None:
            raise NoServer(f"{self.url} answers, but not as scribewire does (status {answer.status_code})")
        raise Refused(
            message, status=answer.status_code, code=code, retry_after_seconds=_retry_after_seconds(answer)
        )


class _CountedFile:
    """A file that reports how much of it was read."""

    def __init__(self, file: BinaryIO, counted: Counted) -> None:
        self._file = file
        self._counted = counted
        start = file.tell()
        self._size = file.seek(0, 2)
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._counted(self._file.tell(), self._size)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def checked_job_id(text: str) -> str:
    """The id as typed, if it has the form of one; raises BadCommand."""
    if not re.fullmatch(_JOB_ID, text):
        shown = Path(text).name[:40]
        raise BadCommand(
            f"{shown!r} is no job's id; `scribewire jobs list` shows them (job_ and 32 characters)"
        )
    return text


def _job_path(job_id: str) -> str:
    return f"/jobs/{job_id}"


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise NoServer("what answers is no scribewire: it sent no JSON object")
    return body


def _error_of(answer: httpx.Response) -> tuple[str, str | None]:
    try:
        error = answer.json()["error"]
        return " ".join(str(error["message"]).split()), str(error["code"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}", None


def _retry_after_seconds(answer: httpx.Response) -> float | None:
    if answer.headers.get("x-should-retry") == "false":
        return None
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isdigit() else None


__all__ = ["ClientFailure", "ServerConnection", "checked_job_id", "server_url"]
