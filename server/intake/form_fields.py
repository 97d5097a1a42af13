"""What a client sent beside its recording: the texts of a form, or the values of a JSON body, by name.

The ways in which clients write one value become one value here; what a value may be is the model's business
(scribewire.server.intake.request).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from scribewire.server.http.errors import ApiError, bad_request

MAX_FIELDS = 1000
MAX_FIELD_BYTES = 1 << 20
MAX_NAME_BYTES = 256
UNSET = ("", "null", "none")
"""Texts, in any case, that clients send for a field that they leave out."""

_BRACKETED = re.compile(r"(.+?)\[([^\[\]]*)\]")
# A data URL holds a comma; another one begins only at `data:`.
_BETWEEN_DATA_URLS = re.compile(r",\s*(?=data:)", re.IGNORECASE)


class NumberText(str):
    """A JSON number as the client wrote it."""


class FormFields:
    """Sent values by field name, each field's in the order sent.

    A value is a text of a form, or any value of a JSON body.
    """

    def __init__(self, values: Mapping[str, Sequence[object]]) -> None:
        self._values = values
        self._bracketed: dict[str, dict[str, Sequence[object]]] = {}
        for name, sent in values.items():
            if (found := _BRACKETED.fullmatch(name)) is not None:
                self._bracketed.setdefault(found[1], {})[found[2]] = sent

    def value(self, name: str) -> object:
        """The one value of a field, None when it was left out; raises ApiError 400 for different values."""
        sent = one_value(name, self._values.get(name, ()))
        return None if is_unset(sent) else sent

    def is_null(self, name: str) -> bool:
        """True for a field that was sent as null, and neither left out nor empty."""
        sent = self._values.get(name, ())
        return any(one is None or (is_unset(one) and str(one).strip() != "") for one in sent)

    def items(self, name: str) -> list[object]:
        """Every item of a list that was sent as `x`, `x[]`, `x[0]` or comma-joined; blank ones are left out.

        Items of a JSON list are taken whole, and no data URL is cut at its comma.
        """
        whole = self._values.get(name, ())
        numbered = self._bracketed.get(name, {})
        places = sorted((one for one in numbered if one.isdecimal()), key=int)
        found = [] if len(whole) == 1 and is_unset(whole[0]) else [*whole]
        found += [one for place in ("", *places) for one in numbered.get(place, ())]
        items = (item for one in found for item in (one if isinstance(one, list) else _split(one)))
        return [item for item in items if not isinstance(item, str) or item.strip()]

    def parts(self, name: str) -> dict[str, object]:
        """Values of an object that was sent as `x[key]` fields, without those left out; raises ApiError 400."""
        found = {key: self.value(f"{name}[{key}]") for key in self._bracketed.get(name, {})}
        return {key: value for key, value in found.items() if value is not None}


def fields_from_json(body: Mapping[str, object]) -> FormFields:
    """The fields of a JSON body without its recording, bounded as those of a form; raises ApiError 400."""
    count = 0
    for name, value in body.items():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
        count += max(1, len(inner))
        if count > MAX_FIELDS:
            raise too_many_fields()
        for text in (name, *inner):
            if isinstance(text, str):
                _check_text(name, text)
    return FormFields({name: [_plain(value)] for name, value in body.items()})


def is_unset(value: object) -> bool:
    """True for a whole value that means that the field was left out."""
    return value is None or (isinstance(value, str) and len(value) < 16 and value.strip().lower() in UNSET)


def one_value(name: str, sent: Iterable[object]) -> object:
    """The value that was sent, once or repeatedly, None for none; raises ApiError 400 for different ones."""
    first, *others = [*sent] or [None]
    if any(other != first for other in others):
        raise bad_request("duplicate_field", f"The field {name} was sent more than once.", name)
    return first


def too_many_fields() -> ApiError:
    """The 400 for more than MAX_FIELDS fields."""
    return bad_request("too_many_fields", f"The form has more than {MAX_FIELDS} fields.")


def field_too_large(name: str) -> ApiError:
    """The 400 for a field over MAX_FIELD_BYTES."""
    return bad_request("field_too_large", f"The field {name[:80]} is larger than 1 MiB.", name[:80])


def name_too_long(name: str) -> ApiError:
    """The 400 for a field whose name is over MAX_NAME_BYTES, longer than any that means something."""
    shown = name[:80].encode("ascii", "replace").decode()
    return bad_request("field_too_large", f"The name of the field {shown}... is too long.")


def field_not_text(name: str) -> ApiError:
    """The 400 for a field whose bytes are not text; `param` omits the name, which may not be text either."""
    return bad_request("field_not_text", f"The field {name[:80]} is not UTF-8.")


def fields_too_large() -> ApiError:
    """The 413 for fields that are too large together."""
    return ApiError(413, "form_too_large", "The form's fields are too large.")


def second_recording(name: str) -> ApiError:
    """The 400 for more than one recording in a request."""
    return bad_request("duplicate_field", "More than one recording was sent.", name)


def _split(value: object) -> list[object]:
    """The items of a comma-joined text; another value is one item, null none."""
    if not isinstance(value, str):
        return [] if value is None else [value]
    if value.lstrip()[:5].lower() == "data:":
        return [*_BETWEEN_DATA_URLS.split(value.strip())]
    return [part.strip() for part in value.split(",")]


def _check_text(name: str, text: str) -> None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        raise field_not_text(name.encode("ascii", "replace").decode()) from None
    if size_bytes > MAX_FIELD_BYTES:
        raise field_too_large(name)


def _plain(value: object) -> object:
    """A JSON value with its numbers as numbers, as deep as fields go."""
    if isinstance(value, NumberText):
        # Python refuses to read thousands of digits as a whole number; no field takes more than 19.
        return int(value) if len(value) <= 20 and value.removeprefix("-").isdigit() else float(value)
    if isinstance(value, dict):
        return {key: one if isinstance(one, dict | list) else _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
