"""Bodies in JSON as pydantic models, which are also their schemas in the description of the API.

Types are enforced; bounds are only described, because an answer that is a hair beyond one is better than none.
"""

from __future__ import annotations

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
        """The body."""
        return self.model_dump_json()

    def values(self) -> dict[str, Any]:
        """The body as values for JSON."""
        return self.model_dump()


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
