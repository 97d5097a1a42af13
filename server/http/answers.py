"""Bodies in JSON as pydantic models, which are also their schemas in the description of the API.

Types are enforced; bounds are only described, because an answer that is a hair beyond one is better than none.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ERROR_TYPES = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
)
"""OpenAI's types of errors."""

MANY_ITEMS = 500
"""Items of a list that are written in one call at most."""


_long_value_lock = threading.Lock()
_long_values = 0


@contextmanager
def long_value() -> Iterator[None]:
    """Hold off the garbage collector while a value of megabytes is made or read.

    A young collection looks at every object since the one before, here millions, and holds the interpreter for hundreds
    of milliseconds. Afterwards they count as old: a full collection looks at them if they live until then.
    """
    global _long_values
    with _long_value_lock:
        _long_values += 1
        gc.disable()
    try:
        yield
    finally:
        with _long_value_lock:
            _long_values -= 1
            if _long_values == 0:
                gc.freeze()
                gc.unfreeze()
                gc.enable()


class Answer(BaseModel):
    """A body of exactly these fields; it can be made of any object that has them as attributes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        defer_build=True,
        from_attributes=True,
        validate_by_name=True,
        json_schema_serialization_defaults_required=True,
    )

    def json_text(self) -> str:
        """The body. Long lists are written an item at a time: one call for all would hold the interpreter meanwhile."""
        apart = {name: _apart(value) for name, value in self if _is_long(value)}
        text = self.model_copy(update={name: empty for name, (empty, _) in apart.items()}).model_dump_json()
        for name, (empty, items) in apart.items():
            whole = ",".join(one.json_text() for one in items)
            # A quotation mark inside a text has a backslash, so this is the field itself.
            mark, put = (f'"{name}":null', whole) if empty is None else (f'"{name}":[]', f"[{whole}]")
            text = text.replace(mark, f'"{name}":{put}', 1)
        return text

    def values(self) -> dict[str, Any]:
        """The body as values for JSON."""
        return self.model_dump()


def _is_long(value: Any) -> bool:
    if isinstance(value, Answer):
        return any(_is_long(one) for _, one in value)
    return isinstance(value, list) and len(value) > MANY_ITEMS and isinstance(value[0], Answer)


def _apart(value: Any) -> tuple[list[Any] | None, list[Answer]]:
    """What stands in a long value's place meanwhile, and its items."""
    return (None, [value]) if isinstance(value, Answer) else ([], value)


def about(description: str = "", *, of: str = "", **schema: Any) -> Any:
    """A field that the description of the API explains.

    of: the attribute that it is read from, if that has another name. schema: bounds that are described.
    """
    told: dict[str, Any] = {"description": description, "validation_alias": of, "json_schema_extra": schema}
    return Field(**{name: value for name, value in told.items() if value})


def optional(description: str = "") -> Any:
    """A field that is left out where there is none."""
    told: dict[str, Any] = {"description": description} if description else {}
    return Field(default=None, exclude_if=lambda value: value is None, **told)


Count = Annotated[int, about(minimum=0)]
UnixSeconds = Annotated[int, BeforeValidator(int), about("Unix time, whole seconds.", minimum=0)]


class ErrorFields(Answer):
    """OpenAI's error object."""

    message: str = about(minLength=1)
    type: str = about(enum=list(ERROR_TYPES))
    param: str | None = about("The field at fault, if one is.")
    code: str = about("Stable, for programs.", minLength=1)


class Error(Answer):
    """Every refusal, on every address and status."""

    error: ErrorFields
