"""A multipart form parsed as it arrives: its recording is written to the file, its text fields kept in memory.

The client's file name and type are never used. Parts with a file name that are not the recording are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from scribewire.server.access.gate import FORM_ALLOWANCE_BYTES
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.form_fields import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    FormFields,
    field_not_text,
    field_too_large,
    fields_too_large,
    second_recording,
    too_many_fields,
)
from scribewire.server.intake.recording_file import RecordingFile

MAX_PART_HEADER_BYTES = 64 << 10


class MultipartBody:
    """Incremental parser of a form: each part is the recording, a text field, or dropped."""

    def __init__(self, content_type: str, file_fields: Sequence[str], recording_file: RecordingFile) -> None:
        """raises: ApiError 400 without a boundary, or with an invalid one."""
        self._file_fields = frozenset(file_fields)
        self._file_field = file_fields[0]
        self._recording_file = recording_file
        self._values: dict[str, list[str]] = {}
        self._field_count = 0
        self._other_bytes = 0
        self._has_file = False
        self._is_complete = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._kind = ""
        self._name = ""
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

    def _on_part_begin(self) -> None:
        self._disposition = b""
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
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name", b"")
        self._name = name.decode("utf-8", "replace")
        is_file = b"filename" in options
        if self._name in self._file_fields or (is_file and not name):
            if self._has_file:
                raise second_recording(self._file_field)
            self._kind, self._has_file = "recording", True
            self._recording_file.create()
            return
        self._kind = "dropped" if is_file or not name else "text"
        self._field_count += 1
        if self._field_count > MAX_FIELDS:
            raise too_many_fields()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._kind == "recording":
            self._recording_file.add(memoryview(data)[start:end])
            return
        self._other_bytes += end - start
        if self._other_bytes > FORM_ALLOWANCE_BYTES:
            raise fields_too_large()
        if self._kind == "text":
            self._text += data[start:end]
            if len(self._text) > MAX_FIELD_BYTES:
                raise field_too_large(self._name)

    def _on_part_end(self) -> None:
        if self._kind != "text":
            return
        try:
            value = self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise field_not_text(self._name) from None
        self._values.setdefault(self._name, []).append(value)

    def _on_end(self) -> None:
        self._is_complete = True


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise bad_request(
            "form_expected",
            "The request must be multipart/form-data with the recording in the part `file`, "
            "or application/json with it in `input_audio`.",
        )
    return boundary


def _damaged(error: FormParserError) -> ApiError:
    return bad_request("form_invalid", f"The multipart form is damaged: {error}")
