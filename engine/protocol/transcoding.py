"""Messages between the front and a transcode child: one line of JSON each, at most MAX_LINE_BYTES long.

The child reads untrusted files, so what it sends is not trusted either: no pickle crosses this pipe, and
`parse_from_transcoder` refuses every line that is not exactly one of the messages below. Samples never cross it;
they go to a file. Every `Transcode` is answered by `TranscodeTaken`, at most one `AudioBegun`, and exactly one
`Transcoded` or `TranscodeFailed`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from scribewire.engine.protocol.config import AudioLimits

MAX_LINE_BYTES = 1 << 16
MAX_WARNINGS = 16
MAX_TEXT_CHARACTERS = 500

DISK_FULL_CODE = "disk_full"
"""The one code of TranscodeFailed that is no engine error: there is no room for the samples."""


class MessageInvalid(ValueError):
    """The other side sent something that is not in this module."""


@dataclass(frozen=True, slots=True)
class TranscodeLimits:
    """Limits of one transcode child.

    cpu_seconds: of each recording, whole seconds. memory_bytes: of the process. file_bytes: of samples written.
    recordings: served before it exits; another takes its place. growth_bytes: resident memory above that at its
    start with which it exits.
    """

    cpu_seconds: int = 600
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 40
    recordings: int = 1000
    growth_bytes: int = 96 << 20


# ---- front -> child ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transcode:
    """Transcode one recording into an existing file: raw 16 kHz mono little-endian float32.

    What is in the file are the recording's own first samples, written in an earlier turn.
    begins_after_samples: when so many are in the file and transcoding goes on, send AudioBegun.
    """

    task_id: int
    input_path: str
    output_path: str
    begins_after_samples: int
    limits: AudioLimits


@dataclass(frozen=True, slots=True)
class StopTranscoding:
    """Leave this recording at the next block, with TranscodeFailed(cancelled). One that is done already is ignored."""

    task_id: int


# ---- child -> front ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TranscoderReady:
    """Sent once, first: everything is imported and the limits hold."""

    process_id: int


@dataclass(frozen=True, slots=True)
class TranscodeTaken:
    """Sent before the recording is opened: a death of the child from now on may be caused by the recording."""

    task_id: int


@dataclass(frozen=True, slots=True)
class AudioBegun:
    """The beginning of the recording can be read while the rest is transcoded.

    decode_seconds: time taken so far. expected_seconds: the length that the file claims, None when it claims none.
    """

    task_id: int
    decode_seconds: float
    expected_seconds: float | None


@dataclass(frozen=True, slots=True)
class Transcoded:
    """A recording's one successful end. decode_seconds: time taken. is_last: this child exits now."""

    task_id: int
    decode_seconds: float
    sample_count: int
    warnings: tuple[str, ...]
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class TranscodeFailed:
    """A recording's one failed end: an engine error's code, or DISK_FULL_CODE.

    detail: for the log only, empty when the message says it all.
    """

    task_id: int
    code: str
    message: str
    parameter: str | None
    detail: str = ""
    is_last: bool = False


ToTranscoder = Transcode | StopTranscoding
FromTranscoder = TranscoderReady | TranscodeTaken | AudioBegun | Transcoded | TranscodeFailed


def to_line(message: ToTranscoder | FromTranscoder) -> bytes:
    """One message with its newline; raises MessageInvalid when it is too long."""
    line = json.dumps({"type": type(message).__name__, **asdict(message)}).encode("ascii") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise MessageInvalid(f"a {type(message).__name__} of {len(line)} bytes is too long")
    return line


def parse_to_transcoder(line: bytes) -> ToTranscoder:
    """Parse a message of the front; raises MessageInvalid."""
    kind, values = _fields_of(line)
    try:
        if kind == "Transcode":
            return Transcode(**{**values, "limits": AudioLimits(**values["limits"])})
        if kind == "StopTranscoding":
            return StopTranscoding(**values)
    except (TypeError, KeyError) as error:
        raise MessageInvalid(f"not a {kind}: {error}") from None
    raise MessageInvalid(f"the front does not say {kind[:40]!r}")


def parse_from_transcoder(line: bytes) -> FromTranscoder:
    """Parse a message of the child, every field checked; raises MessageInvalid."""
    kind, values = _fields_of(line)
    message_type = _FROM_DECODER.get(kind)
    if message_type is None or set(values) != {field.name for field in fields(message_type)}:
        raise MessageInvalid(f"a decode child does not say {kind[:40]!r} so")
    if message_type is Transcoded and isinstance(values["warnings"], list):
        values["warnings"] = tuple(values["warnings"])
    for name, value in values.items():
        if not _CHECKS[name](value):
            raise MessageInvalid(f"{kind}.{name} is not as it must be")
    message: FromTranscoder = message_type(**values)
    return message


def _fields_of(line: bytes) -> tuple[str, dict[str, Any]]:
    if len(line) > MAX_LINE_BYTES:
        raise MessageInvalid("a line is too long")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise MessageInvalid("a line is not JSON") from None
    if not isinstance(values, dict) or not isinstance(values.get("type"), str):
        raise MessageInvalid("a line is no message")
    return values.pop("type"), values


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS


def _is_time(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and value >= 0


def _are_warnings(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_WARNINGS and all(_is_text(one) for one in value)


_FROM_DECODER = {one.__name__: one for one in get_args(FromTranscoder)}
_CHECKS = {
    "process_id": _is_count,
    "task_id": _is_count,
    "decode_seconds": _is_time,
    "expected_seconds": lambda value: value is None or _is_time(value),
    "sample_count": _is_count,
    "warnings": _are_warnings,
    "is_last": lambda value: type(value) is bool,
    "code": _is_text,
    "message": _is_text,
    "parameter": lambda value: value is None or _is_text(value),
    "detail": _is_text,
}
