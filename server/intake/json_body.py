"""A JSON body parsed as it arrives: `input_audio.data` is decoded into the file, the rest becomes form fields.

Never holds the body: the one string that may be large is decoded from base64 piece by piece, and the rest is bounded.
Parses the structure only as far as needed to find that string; the standard parser validates the same text with that
string left out.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Any, NoReturn

from scribewire.server.access.gate import FORM_ALLOWANCE_BYTES, largest_body_bytes, upload_too_large
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.form_fields import (
    FormFields,
    NumberText,
    fields_from_json,
    fields_too_large,
    second_recording,
)
from scribewire.server.intake.recording_file import RecordingFile

AUDIO_FIELD = "input_audio"
PATH_FIELD = "file_path"
MAX_DELIMITERS = 50_000
"""Limit on brackets, commas, colons and quotes outside the recording; each costs a step of Python."""
MAX_DEPTH = 64

_DELIMITER = re.compile(rb'["{}\[\],:]')
_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_ESCAPE = re.compile(rb"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_HALF_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
# PHP escapes the slash, .NET the plus sign; line breaks come from encoders that wrap their lines.
_ESCAPES_IN_BASE64 = {b"/": b"/", b"n": b"", b"r": b"", b"t": b""}


class JsonBody:
    """Incremental parser of a body; afterwards `file_path` is set where it was given instead of audio."""

    def __init__(self, recording_file: RecordingFile, *, max_upload_bytes: int) -> None:
        self.file_path: str | None = None
        self._recording_file = recording_file
        self._max_upload_bytes = max_upload_bytes
        self._max_body_bytes = largest_body_bytes(max_upload_bytes, is_json=True)
        self._body_bytes = 0
        self._around = bytearray()
        self._delimiter_count = 0
        self._rest = b""
        # Per open bracket: the key whose value is next in an object, None where a key is next and in arrays.
        self._keys: list[str | None] = []
        self._opened = bytearray()
        self._where = "outside"
        self._key = bytearray()
        self._base64: _Base64 | None = None

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body; raises ApiError 400 and 413."""
        self._body_bytes += len(piece)
        if self._body_bytes > self._max_body_bytes:
            raise upload_too_large(self._max_upload_bytes)
        data, self._rest = self._rest + piece, b""
        position = 0
        while position < len(data):
            if self._where == "outside":
                position = self._take_delimiter(data, position)
            else:
                position = self._take_text(data, position)

    def finish(self) -> FormFields:
        """The fields of the complete body; raises ApiError 400."""
        try:
            content = json.loads(
                self._around.decode("utf-8"),
                parse_int=NumberText,
                parse_float=NumberText,
                parse_constant=_no_such_constant,
                object_pairs_hook=_unique,
            )
        except (ValueError, RecursionError) as error:
            raise _not_json(str(error)) from None
        if not isinstance(content, dict):
            raise _not_json("it is no object")
        self._check_recording(content)
        return fields_from_json(content)

    def _check_recording(self, content: dict[str, Any]) -> None:
        audio, path = content.pop(AUDIO_FIELD, None), content.pop(PATH_FIELD, None)
        if audio is not None and path is not None:
            raise second_recording(PATH_FIELD)
        if path is not None:
            if not isinstance(path, str) or isinstance(path, NumberText) or not path:
                raise bad_request("invalid_parameter", f"{PATH_FIELD} must be a text.", PATH_FIELD)
            self.file_path = path
            return
        if audio is None:
            raise bad_request(
                "file_missing",
                f"No recording was sent: the body needs {AUDIO_FIELD} with data (base64) and format.",
                AUDIO_FIELD,
            )
        if not isinstance(audio, dict):
            raise bad_request(
                "invalid_parameter",
                f"{AUDIO_FIELD} must be an object with data (base64) and format.",
                AUDIO_FIELD,
            )
        if self._base64 is None:
            raise bad_request(
                "file_missing",
                f"{AUDIO_FIELD}.data must be a text that holds the recording in base64.",
                f"{AUDIO_FIELD}.data",
            )

    def _take_delimiter(self, data: bytes, position: int) -> int:
        found = _DELIMITER.search(data, position)
        if found is None:
            self._keep(data[position:])
            return len(data)
        self._keep(data[position : found.end()])
        self._delimiter_count += 1
        if self._delimiter_count > MAX_DELIMITERS:
            raise bad_request("json_too_complex", f"The JSON body has more than {MAX_DELIMITERS} elements.")
        delimiter = found.group()
        if delimiter == b'"':
            self._begin_text()
        elif delimiter in b"{[":
            if len(self._opened) == MAX_DEPTH:
                raise bad_request("json_too_complex", f"The JSON body is nested more than {MAX_DEPTH} deep.")
            self._opened += delimiter
            self._keys.append(None)
        elif delimiter in b"}]":
            if not self._opened:
                raise _not_json("a bracket is closed that was not opened")
            self._opened.pop()
            self._keys.pop()
        elif delimiter == b"," and self._keys:
            self._keys[-1] = None
        return found.end()

    def _begin_text(self) -> None:
        if self._opened.endswith(b"{") and self._keys[-1] is None:
            self._where = "key"
            self._key.clear()
        elif self._opened == b"{{" and self._keys == [AUDIO_FIELD, "data"]:
            if self._base64 is not None:
                raise second_recording(AUDIO_FIELD)
            self._where = "audio"
            self._base64 = _Base64()
            self._recording_file.create()
        else:
            self._where = "text"

    def _take_text(self, data: bytes, position: int) -> int:
        end = _end_of_text(data, position)
        is_ended = data[end : end + 1] == b'"'
        if self._where == "audio":
            assert self._base64 is not None
            text = data[position:end]
            if not is_ended and (half := _HALF_ESCAPE.search(data[max(position, end - 5) :])):
                self._rest = half.group()
                text = data[position : len(data) - len(self._rest)]
            self._recording_file.add(self._base64.decode(text))
            if is_ended:
                self._base64.finish()
        else:
            self._keep(data[position:end])
            if self._where == "key":
                self._key += data[position:end]
            if not is_ended:
                self._rest = data[end:]  # nothing, or a backslash whose letter is in the next piece
        if not is_ended:
            return len(data)
        self._keep(b'"')
        if self._where == "key":
            self._keys[-1] = self._read_key()
        self._where = "outside"
        return end + 1

    def _read_key(self) -> str:
        try:
            return str(json.loads(b'"' + self._key + b'"'))
        except ValueError as error:
            raise _not_json(str(error)) from None

    def _keep(self, text: bytes) -> None:
        self._around += text
        if len(self._around) > FORM_ALLOWANCE_BYTES:
            raise fields_too_large()


def _end_of_text(data: bytes, position: int) -> int:
    """Position of the string's closing quote, or of the end of its last whole character if there is none."""
    quote = data.find(b'"', position)
    end = len(data) if quote < 0 else quote
    if data.find(b"\\", position, end) < 0:  # five times as fast as the expression, and usual for base64
        return end
    found = _TEXT.match(data, position)
    assert found is not None  # it may match nothing
    return found.end()


class _Base64:
    """Decodes the content of a JSON string in pieces; strict, except for line breaks."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_padded = False

    def decode(self, text: bytes) -> bytes:
        if b"\\" in text:
            text = _ESCAPE.sub(_unescaped, text)
        text = self._rest + text
        usable = len(text) & ~3
        self._rest, text = text[usable:], text[:usable]
        if self._is_padded and (text or self._rest):
            raise _not_base64()
        self._is_padded = text.endswith(b"=")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            raise _not_base64() from None

    def finish(self) -> None:
        if self._rest:
            raise _not_base64()


def _unescaped(escape: re.Match[bytes]) -> bytes:
    letter = escape.group(1)
    if len(letter) == 5:
        code = int(letter[1:], 16)
        if code > 127:
            raise _not_base64()
        return b"" if code in b"\r\n\t" else bytes([code])
    if letter not in _ESCAPES_IN_BASE64:
        raise _not_base64()
    return _ESCAPES_IN_BASE64[letter]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        shown = twice.encode("ascii", "replace").decode()[:80]
        raise bad_request("duplicate_field", f"The field {shown} was sent more than once.", shown)
    return content


def _no_such_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _not_json(why: str) -> ApiError:
    return bad_request("json_invalid", f"The body is not valid JSON: {' '.join(why.split())[:200]}.")


def _not_base64() -> ApiError:
    return bad_request(
        "base64_invalid",
        f"{AUDIO_FIELD}.data must be plain base64 (no data: prefix, padded with =).",
        f"{AUDIO_FIELD}.data",
    )
