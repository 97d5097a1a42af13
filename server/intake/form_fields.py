"""The text fields of a form or a JSON body beside its recording, with limits on their number and size."""

from __future__ import annotations

from scribewire.server.http.errors import ApiError, bad_request

MAX_FIELDS = 1000
MAX_FIELD_BYTES = 1 << 20


class FormFields:
    """The text fields of a form; `name[]` and `name` are the same list."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """The one value of a field, None when absent; a field sent twice with different values is a 400."""
        values = self._values.get(name, [])
        if len(set(values)) > 1:
            raise bad_request("duplicate_field", f"The field {name} was sent more than once.", name)
        return values[0] if values else None

    def texts(self, name: str) -> list[str]:
        """Every value of a field, in the order sent, comma-joined ones split and empty ones left out."""
        joined = [*self._values.get(name, []), *self._values.get(f"{name}[]", [])]
        return [part.strip() for value in joined for part in value.split(",") if part.strip()]


def too_many_fields() -> ApiError:
    """The 400 for more than MAX_FIELDS fields."""
    return bad_request("too_many_fields", f"The form has more than {MAX_FIELDS} fields.")


def field_too_large(name: str) -> ApiError:
    """The 400 for a field over MAX_FIELD_BYTES."""
    return bad_request("field_too_large", f"The field {name[:80]} is larger than 1 MiB.", name[:80])


def field_not_text(name: str) -> ApiError:
    """The 400 for a field whose bytes are not text; `param` omits the name, which may not be text either."""
    return bad_request("field_not_text", f"The field {name[:80]} is not UTF-8.")


def fields_too_large() -> ApiError:
    """The 413 for fields that are too large together."""
    return ApiError(413, "form_too_large", "The form's fields are too large.")


def second_recording(name: str) -> ApiError:
    """The 400 for more than one recording in a request."""
    return bad_request("duplicate_field", "More than one recording was sent.", name)
