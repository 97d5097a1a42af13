"""Types of settings: each function converts a value from a flag, the environment or the config file.

An invalid value is a ValueError, whose message follows the setting's name: "must be ...".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_Parse = Callable[[Any], Any]

METAVARS: dict[_Parse, str] = {}
"""What help shows for a value of each type."""


def _shown_as(metavar: str) -> Callable[[_Parse], _Parse]:
    def note(parse: _Parse) -> _Parse:
        METAVARS[parse] = metavar
        return parse

    return note


_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@_shown_as("TEXT")
def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


@_shown_as("DIR")
def folder(value: Any) -> Path:
    """A folder's path; `~` is the user's."""
    return value if isinstance(value, Path) else Path(text(value)).expanduser()


def boolean(value: Any) -> bool:
    """True or False, from the usual words for them."""
    if isinstance(value, bool):
        return value
    lowered = str(value).strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be true or false")


def integer(minimum: int, maximum: int) -> Callable[[Any], int]:
    """A whole number within bounds."""

    @_shown_as("N")
    def parse(value: Any) -> int:
        if isinstance(value, (bool, float)):
            raise ValueError("must be a whole number")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if not minimum <= number <= maximum:
            raise ValueError(f"must be from {minimum} to {maximum}")
        return number

    return parse


def seconds(minimum: float, maximum: float) -> Callable[[Any], float]:
    """A number of seconds within bounds."""
    return _number_of("seconds", minimum, maximum)


def _number_of(unit: str, minimum: float, maximum: float) -> Callable[[Any], float]:
    @_shown_as(unit.upper())
    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be a number of {unit}") from None
        if isinstance(value, bool) or not math.isfinite(number) or not minimum <= number <= maximum:
            raise ValueError(f"must be from {minimum:.10g} to {maximum:.10g} {unit}")
        return number

    return parse


def several_seconds(minimum: float, maximum: float) -> Callable[[Any], tuple[float, ...]]:
    """One or more numbers of seconds within bounds, as a list or separated by commas."""
    one = seconds(minimum, maximum)

    @_shown_as("SECONDS,...")
    def parse(value: Any) -> tuple[float, ...]:
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        found = [piece for part in parts for piece in (part.split(",") if isinstance(part, str) else [part])]
        if not found:
            raise ValueError("must be one or more numbers of seconds")
        return tuple(one(piece) for piece in found)

    return parse


@_shown_as("SIZE")
def size(value: Any) -> int:
    """A size in bytes, also from texts such as `500MiB`."""
    match = re.fullmatch(r"\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*", str(value).lower())
    if isinstance(value, bool) or match is None:
        raise ValueError("must be a size in bytes, such as 500MiB or 2GiB")
    size_bytes = int(match[1]) * _SIZE_UNITS[match[2]]
    if size_bytes < 1:
        raise ValueError("must be at least one byte")
    return size_bytes


def size_in_words(size_bytes: int) -> str:
    """A size in the largest unit that it is a whole number of, as it would be typed."""
    for unit, factor in sorted(_SIZE_UNITS.items(), key=lambda one: -one[1]):
        if unit and size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit.upper()}iB"
    return f"{size_bytes} bytes"


@_shown_as("SIZE")
def size_or_zero(value: Any) -> int:
    """A size, or 0."""
    return 0 if str(value).strip() == "0" else size(value)


days = _number_of("days", 0, 3660)
minutes = _number_of("minutes", 0, 366 * 1440)


@_shown_as("TEXT")
def text_or_empty(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value.strip()


def choice(*names: str) -> Callable[[Any], str]:
    """One of some names."""

    @_shown_as("{" + ",".join(names) + "}")
    def parse(value: Any) -> str:
        if str(value) not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(value)

    return parse


@_shown_as("NAME")
def names(value: Any) -> tuple[str, ...]:
    """A list of texts; a single text is split at its commas."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of texts")
    return tuple(name.strip() for part in parts for name in part.split(",") if name.strip())
