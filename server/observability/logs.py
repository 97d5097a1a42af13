"""Structured logs: one event a line on standard error, as JSON for programs or as text for people.

Lines never carry transcripts, prompts or keys: callers pass ids and numbers. Strings that a client may have chosen
are escaped and cut at 200 characters here, so that no line can be forged or flooded, and no terminal controlled.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import sys
import time
import traceback
from typing import Any, TextIO

MAX_CHARACTERS = 200
_MAX_LIST_ITEMS = 100
_EVENT_ATTRIBUTE = "scribewire_event"
REQUEST_EVENT = "request"
_REQUEST_COLUMNS = 100
_METHOD_COLUMNS = 10
_ONE_WORD = re.compile(r"""[!#-&(-<>-~]+""")
_WITH_SPACES = re.compile(r"""[ !#-~]+""")


class JsonLineFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; exceptions become their type and frames."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": cut(record.getMessage()),
            **_details(record),
        }
        return json.dumps(line, ensure_ascii=True, default=str)


class TextLineFormatter(logging.Formatter):
    """Formats a record as one line for people: local time, level, event, then name=value.

    A request is `POST /transcribe 202 3.1 ms` and its error, in at most 100 columns: a long path is cut, and ids are
    left out, except that of a request that the server failed. Of a job only its own id is shown.
    shows_ids: all ids, and requests as any other event.
    """

    def __init__(self, *, shows_ids: bool = False) -> None:
        super().__init__()
        self._shows_ids = shows_ids

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of printable ASCII."""
        head = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname:<7} "
        details = _details(record)
        if record.getMessage() == REQUEST_EVENT and not self._shows_ids:
            return head + _request_in_words(details, _REQUEST_COLUMNS - len(head))
        if "job_id" in details and not self._shows_ids:
            details = {name: value for name, value in details.items() if name not in ("request_id", "key_id")}
        words = [_plain(cut(record.getMessage()), may_hold_spaces=True)]
        words += [f"{name}={_plain(value)}" for name, value in details.items()]
        return head + " ".join(words)


def _request_in_words(details: dict[str, Any], columns: int) -> str:
    status = details["status"]
    method = _plain(details["method"])[:_METHOD_COLUMNS]
    words = [str(status), f"{details['milliseconds']} ms"]
    words += [details["error"]] if "error" in details else []
    words += [details["request_id"]] if status >= 500 else []
    end = " ".join(words)
    path, room = _plain(details["path"]), columns - len(method) - len(end) - 2
    return f"{method} {path if len(path) <= room else path[: max(0, room - 3)] + '...'} {end}"


def _details(record: logging.LogRecord) -> dict[str, Any]:
    details: dict[str, Any] = dict(getattr(record, _EVENT_ATTRIBUTE, {}))
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, frames = record.exc_info
        details["exception"] = kind.__name__
        if (message := _harmless_message(error)) is not None:
            details["exception_message"] = cut(message)
        details["frames"] = [
            f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(frames)[-20:]
        ]
    return details


def _harmless_message(error: BaseException | None) -> str | None:
    """Message of an error that the system made; others may quote a client's text."""
    if isinstance(error, OSError):
        return error.strerror
    return str(error) if isinstance(error, sqlite3.Error) else None


def _plain(value: Any, *, may_hold_spaces: bool = False) -> str:
    """A value unchanged where it is unambiguous, else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, default=str)
    allowed = _WITH_SPACES if may_hold_spaces else _ONE_WORD
    return text if allowed.fullmatch(text) else json.dumps(text, ensure_ascii=True)


def cut(text: str) -> str:
    """The text, or its first 200 characters and a sign that it was longer."""
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_safe(item) for item in value[-_MAX_LIST_ITEMS:]]
    return cut(str(value))


def log_event(logger: logging.Logger, level: int, event: str, **details: Any) -> None:
    """Log an event with details; None values are left out and texts are cut."""
    shown = {name: _safe(value) for name, value in details.items() if value is not None}
    logger.log(level, event, extra={_EVENT_ATTRIBUTE: shown})


def configure_logging(level: str, stream: TextIO | None = None, *, log_format: str = "json") -> None:
    """Send this process's logs to standard error; only `serve` calls this.

    log_format: text, json or auto; `auto` is text where the stream is a terminal and JSON elsewhere.
    """
    out = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(out)
    is_text = log_format == "text" or (log_format == "auto" and out.isatty())
    shows_ids = level == "debug"
    handler.setFormatter(TextLineFormatter(shows_ids=shows_ids) if is_text else JsonLineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn logs every start and stop at info, which `serve` prints itself.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    # These log every request, with the whole URL, and every part of every form.
    for name in ("asyncio", "httpcore", "httpx", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)
