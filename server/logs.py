"""Structured logs: one JSON object a line on standard error.

Refuses to carry transcripts, prompts or keys: callers pass ids and numbers. Strings that a client may have chosen
are escaped by JSON and cut at 200 characters here, so that no line can be forged or flooded.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

MAX_CHARACTERS = 200
_MAX_LIST_ITEMS = 100
_EVENT_ATTRIBUTE = "scribewire_event"


class JsonLineFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; exceptions become their type, message and frames."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": cut(record.getMessage()),
        }
        line.update(getattr(record, _EVENT_ATTRIBUTE, {}))
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, frames = record.exc_info
            line["exception"] = kind.__name__
            line["exception_message"] = cut(str(error))
            line["frames"] = [
                f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(frames)[-20:]
            ]
        return json.dumps(line, ensure_ascii=True, default=str)


def cut(text: str) -> str:
    """The text, or its first 200 characters and a mark that it was longer."""
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


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send this process's logs to standard error as JSON lines; only `serve` calls this."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn tells of every start and stop at info, which `serve` says better itself.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.WARNING)
