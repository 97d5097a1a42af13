"""Types of a JSON body's parameters, checked because form fields, which they become afterwards, have no types.

Without this check an object in place of a number would be dropped silently. Only known parameters are checked; null is
as if left out, and unknown names are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scribewire.server.http.errors import bad_request
from scribewire.server.intake.form_fields import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    FormFields,
    field_not_text,
    field_too_large,
    too_many_fields,
)

_NULL_MEANS_SOMETHING = ("chunking_strategy",)
_FIELD_DEPTH = 4


class NumberText(str):
    """A JSON number as the client wrote it."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, NumberText)


def _is_number(value: Any) -> bool:
    return isinstance(value, NumberText)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(entry) for entry in value)


_Type = tuple[Callable[[Any], bool], str]
_TEXT: _Type = (_is_text, "a text")
_NUMBER: _Type = (_is_number, "a number")
_BOOLEAN: _Type = (_is_boolean, "true or false")
_TEXTS: _Type = (_is_list_of_texts, "a list of texts")

TYPES: Mapping[str, _Type] = {
    "model": _TEXT,
    "callback_url": _TEXT,
    "language": _TEXT,
    "prompt": _TEXT,
    "response_format": _TEXT,
    "temperature": _NUMBER,
    "repetition_penalty": _NUMBER,
    "max_tokens": _NUMBER,
    "seed": _NUMBER,
    "stream": _BOOLEAN,
    "languages": _TEXTS,
    "keywords": _TEXTS,
    "timestamp_granularities": _TEXTS,
    "include": _TEXTS,
    "known_speaker_names": _TEXTS,
    "known_speaker_references": _TEXTS,
}
_STRATEGY = "chunking_strategy"
_STRATEGY_TYPES: Mapping[str, _Type] = {
    "type": _TEXT,
    "prefix_padding_ms": _NUMBER,
    "silence_duration_ms": _NUMBER,
    "threshold": _NUMBER,
}


def fields_from_json(body: Mapping[str, Any]) -> FormFields:
    """The fields of a body without its recording, checked; raises ApiError 400."""
    check_types(body)
    return FormFields(_as_form(body))


def check_types(content: Mapping[str, Any]) -> None:
    """Refuse parameters of a wrong type; numbers must be `NumberText`. Raises ApiError 400."""
    for name, wanted in TYPES.items():
        _check(content, name, wanted, name)
        if wanted is _TEXTS:
            _check(content, f"{name}[]", wanted, name)
    strategy = content.get(_STRATEGY)
    if isinstance(strategy, dict):
        for name, wanted in _STRATEGY_TYPES.items():
            _check(strategy, name, wanted, f"{_STRATEGY}[{name}]")
    elif strategy is not None and not _is_text(strategy):
        raise bad_request("invalid_parameter", f"{_STRATEGY} must be a text or an object.", _STRATEGY)


def _check(content: Mapping[str, Any], name: str, wanted: _Type, shown: str) -> None:
    is_right, kind = wanted
    value = content.get(name)
    if value is not None and not is_right(value):
        raise bad_request("invalid_parameter", f"{shown} must be {kind} in a JSON body.", shown)


def _as_form(content: Mapping[str, Any]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    count = 0
    for name, value in content.items():
        for field, text in _texts_of(name, value, 0):
            count += 1
            if count > MAX_FIELDS:
                raise too_many_fields()
            try:
                size_bytes = len(text.encode())
                field.encode()
            except UnicodeEncodeError:  # half a surrogate pair
                raise field_not_text(field.encode("ascii", "replace").decode()) from None
            if size_bytes > MAX_FIELD_BYTES:
                raise field_too_large(field)
            values.setdefault(field, []).append(text)
    return values


def _texts_of(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """A value as the equivalent form fields; null yields none where it has no meaning."""
    if value is None and name in _NULL_MEANS_SOMETHING:
        yield name, "null"
    if isinstance(value, bool):
        yield name, "true" if value else "false"
    elif isinstance(value, str):
        yield name, str(value)
    elif depth == _FIELD_DEPTH:
        return  # no known field is nested this deep
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts_of(f"{name}[{key}]", inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_of(f"{name}[]", inner, depth + 1)
