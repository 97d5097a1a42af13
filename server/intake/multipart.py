"""A multipart form parsed as it arrives: its recording is written to the file, its text fields kept in memory.

The client's file name and type are never used. What no parameter is made of is counted and dropped: parts with a file
name that are not the recording, and fields of unknown names. Everything beside the recording has one bound, and the
time spent on it grows with its size alone, whatever it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from scribewire.server.access.gate import FORM_ALLOWANCE_BYTES
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.form_fields import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_NAME_BYTES,
    FormFields,
    field_not_text,
    field_too_large,
    fields_too_large,
    name_too_long,
    second_recording,
    too_many_fields,
)
from scribewire.server.intake.recording_file import RecordingFile
from scribewire.server.intake.request import JobRequest

MAX_PART_HEADER_BYTES = 16 << 10
"""Size limit of one line of a part's headers, of which there are eight at most."""
KNOWN_NAMES = frozenset(JobRequest.model_fields)
"""Names of parameters; those of lists and objects may end in brackets."""

# Not the library's parse_options_header, which takes 4 microseconds for each semicolon: 70 ms for one header.
_PARAMETER = re.compile(rb';[ \t]*+([^\s;="]++)[ \t]*+=[ \t]*+("(?:[^"\\]++|\\.)*+"|[^;"]*+)', re.DOTALL)


class MultipartBody:
    """Incremental parser of a form: each part is the recording, a text field, or dropped."""

    def __init__(self, content_type: str, file_fields: Sequence[str], recording_file: RecordingFile) -> None:
        """raises: ApiError 400 without a boundary, or with an invalid one."""
        self._file_fields = frozenset(file_fields)
        self._file_field = file_fields[0]
        self._recording_file = recording_file
        self._values: dict[str, list[str]] = {}
        self._part_count = 0
        self._body_bytes = 0
        self._has_file = False
        self._is_complete = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._kind = ""
        self._name = ""
        self._size_bytes = 0
        self._text = bytearray()
        try:
            self._parser = MultipartParser(
                _boundary(content_type),
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
                # A file name of ten thousand characters is ignored like every file name, not refused.
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _damaged(error) from None

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body; raises ApiError 400 and 413."""
        if not piece:
            return
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _damaged(error) from None
        self._body_bytes += len(piece)
        if self._body_bytes - self._recording_file.size_bytes > FORM_ALLOWANCE_BYTES:
            raise fields_too_large()

    def finish(self) -> FormFields:
        """The text fields of the complete body; raises ApiError 400."""
        if not self._is_complete:
            raise bad_request("upload_incomplete", "The upload ends before its form does.")
        if not self._has_file:
            raise bad_request(
                "file_missing",
                f"No recording was sent: the form needs a part named {self._file_field}.",
                self._file_field,
            )
        return FormFields(self._values)

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
            self._recording_file.create()
            return
        is_known = self._name.partition("[")[0] in KNOWN_NAMES
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
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data" or not boundary:
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


def _damaged(error: FormParserError) -> ApiError:
    return bad_request("form_invalid", f"The multipart form is damaged: {error}")
