"""What a client sends beside its recording, by name, and the multipart form that brings both, parsed as it arrives.

A form's recording is written to the file, its text fields kept in memory; a JSON body has values of the same names. The
ways in which clients write one value become one value here; what a value may be is the model's business
(scribewire.server.intake.request).

The recording's file name becomes the field `filename`, unless that was sent; no file is named by it, and the client's
type is never used. What no parameter is made of is counted and dropped: parts with a file name that are not the
recording, and fields of unknown names. Everything beside the recording has one bound, and the time spent on it grows
with its size alone, whatever it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from scribewire.server.access.gate import FORM_ALLOWANCE_BYTES
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.receiving import RecordingFile

MAX_FIELDS = 1000
MAX_FIELD_BYTES = 1 << 20
MAX_NAME_BYTES = 256
MAX_PART_HEADER_BYTES = 16 << 10
"""Size limit of one line of a part's headers, of which there are eight at most."""

UNSET = ("", "null", "none")
"""Texts, in any case, that clients send for a field that they leave out."""

_BRACKETED = re.compile(r"(.+?)\[([^\[\]]*)\]")
# A data URL holds a comma; another one begins only at `data:`.
_BETWEEN_DATA_URLS = re.compile(r",\s*(?=data:)", re.IGNORECASE)
# Not the library's parse_options_header, which takes 4 microseconds for each semicolon: 70 ms for one header.
_PARAMETER = re.compile(rb';[ \t]*+([^\s;="]++)[ \t]*+=[ \t]*+("(?:[^"\\]++|\\.)*+"|[^;"]*+)', re.DOTALL)


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

    def without(self, name: str) -> FormFields:
        """The other fields; the named one is gone in all of its spellings."""
        return FormFields({key: sent for key, sent in self._values.items() if key.partition("[")[0] != name})

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


class MultipartBody:
    """Incremental parser of a form: each part is the recording, a text field, or dropped."""

    def __init__(
        self,
        content_type: str,
        file_fields: Sequence[str],
        recording_file: RecordingFile,
        known_names: Container[str],
    ) -> None:
        """known_names: of parameters, which those of lists and objects may follow with brackets.

        raises: ApiError 400 without a boundary, or with an invalid one.
        """
        self._file_fields = frozenset(file_fields)
        self._file_field = file_fields[0]
        self._recording_file = recording_file
        self._known_names = known_names
        self._values: dict[str, list[str]] = {}
        self._part_count = 0
        self._body_bytes = 0
        self._has_file = False
        self._is_complete = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._kind = ""
        self._name = self._file_name = ""
        self._size_bytes = 0
        self._text = bytearray()
        boundary = _boundary(content_type)
        self._delimiter = b"--" + boundary
        self._is_begun = False
        self._searched = b"\n"  # the first boundary stands at the beginning of a line
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
                # A file name of ten thousand characters is cut, not refused.
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _damaged(error) from None

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body; raises ApiError 400 and 413."""
        self._body_bytes += len(piece)
        if not self._is_begun:
            piece = self._from_first_boundary(piece)
        try:
            if piece:
                self._parser.write(piece)
        except FormParserError as error:
            raise _damaged(error) from None
        if self._body_bytes - self._recording_file.size_bytes > FORM_ALLOWANCE_BYTES:
            raise fields_too_large() if self._is_begun else self._without_boundary()

    def _from_first_boundary(self, piece: bytes) -> bytes:
        """What the parser is to read of a piece: nothing of a text before the first boundary, which means nothing."""
        searched = self._searched + piece
        start = searched.find(b"\n" + self._delimiter)
        self._is_begun = start >= 0
        self._searched = b"" if self._is_begun else searched[-len(self._delimiter) :]
        return searched[start + 1 :] if self._is_begun else b""

    def _without_boundary(self) -> ApiError:
        shown = self._delimiter.decode("latin-1")
        return bad_request(
            "form_invalid",
            f"No line of the body begins with the boundary that the Content-Type names, {shown!a}.",
        )

    def finish(self) -> FormFields:
        """The text fields of the complete body; raises ApiError 400."""
        if self._body_bytes and not self._is_begun:
            raise self._without_boundary()
        if not self._is_complete:
            raise bad_request("upload_incomplete", "The upload ends before its form does.")
        if not self._has_file:
            raise bad_request(
                "file_missing",
                f"No recording was sent: the form needs a part named {self._file_field}.",
                self._file_field,
            )
        return FormFields({"filename": [self._file_name], **self._values})

    def close(self) -> None:
        """Let go of the parser, whose references back here would keep texts until the next collection of garbage."""
        self._parser.callbacks = {}

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._size_bytes = 0
        self._text = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        parameters = _parameters(self._disposition)
        name = parameters.get(b"name", b"")
        if len(name) > MAX_NAME_BYTES:
            raise name_too_long(name.decode("utf-8", "replace"))
        self._name = name.decode("utf-8", "replace")
        is_file = b"filename" in parameters
        if self._name in self._file_fields or (is_file and not name):
            if self._has_file:
                raise second_recording(self._file_field)
            self._kind, self._has_file = "recording", True
            self._file_name = _file_name(parameters)
            self._recording_file.create()
            return
        is_known = self._name.partition("[")[0] in self._known_names
        self._kind = "file" if is_file or not name else "known" if is_known else "unknown"
        self._part_count += 1
        if self._part_count > MAX_FIELDS:
            raise too_many_fields()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._kind == "recording":
            self._recording_file.add(memoryview(data)[start:end])
            return
        self._size_bytes += end - start
        if self._kind != "file" and self._size_bytes > MAX_FIELD_BYTES:
            raise field_too_large(self._name)
        if self._kind == "known":
            self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._kind != "known":
            return
        try:
            value = self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise field_not_text(self._name) from None
        self._values.setdefault(self._name, []).append(value)

    def _on_end(self) -> None:
        self._is_complete = True


def _boundary(content_type: str) -> bytes:
    boundary = _parameters(content_type.encode("latin-1")).get(b"boundary", b"")
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        if not boundary:
            raise bad_request(
                "form_expected",
                "The Content-Type multipart/form-data names no boundary; leave this header to your HTTP client, which "
                "knows the one that it writes.",
            )
    else:
        raise bad_request(
            "form_expected",
            "The request must be multipart/form-data with the recording in the part `file`, "
            "or application/json with it in `input_audio`.",
        )
    return boundary


def _parameters(header: bytes) -> dict[bytes, bytes]:
    """The parameters after a header's value, names in lower case."""
    return {
        name.lower(): re.sub(rb"\\(.)", rb"\1", value[1:-1]) if value[:1] == b'"' else value.rstrip()
        for name, value in _PARAMETER.findall(header)
    }


def _file_name(parameters: dict[bytes, bytes]) -> str:
    """A part's file name as the client gave it; some send what is not ASCII percent-encoded (RFC 5987)."""
    plain = parameters.get(b"filename", b"").decode("utf-8", "replace")
    return plain or unquote(parameters.get(b"filename*", b"").rpartition(b"'")[2].decode("ascii", "replace"))


def _damaged(error: FormParserError) -> ApiError:
    return bad_request("form_invalid", f"The multipart form is damaged: {error}")
