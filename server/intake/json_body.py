"""A JSON body, parsed from the file it was received into: `input_audio.data` goes to the recording's file decoded.

Reads the file in pieces and hands no library more than one of them: neither the body nor a long string is ever whole
in memory, and no call keeps Python's lock, and with it the event loop, for longer than a piece takes. Values are kept
as far as they fit the bounds of a form; nesting is bounded before Python's own stack is.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TextIO

from scribewire.server.access.gate import FORM_ALLOWANCE_BYTES
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.form import (
    MAX_FIELD_BYTES,
    MAX_NAME_BYTES,
    NumberText,
    field_too_large,
    fields_too_large,
    name_too_long,
    second_recording,
)
from scribewire.server.intake.receiving import RecordingFile

AUDIO_FIELD = "input_audio"
PATH_FIELD = "file_path"
PIECE_CHARACTERS = 64 << 10
"""The most that is read, decoded or searched by one call."""
MAX_DELIMITERS = 10_000
"""Limit on brackets, commas, colons, texts and other values; each costs microseconds, and a thousand fields fit."""
MAX_DEPTH = 64

_TOKEN = re.compile(r'[ \t\r\n]*+([{}\[\],:"]|[^{}\[\],:"\s]++)?')


def _no_such_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_int=NumberText, parse_float=NumberText, parse_constant=_no_such_constant)


def parse_json(path: Path, recording: RecordingFile) -> tuple[dict[str, object], str | None]:
    """The parameters of the body in a file, and its `file_path` if it has one instead of a recording.

    Decodes the recording into its own file. Blocks, so call it in a thread. raises: ApiError 400 and 413, OSError
    """
    with path.open(encoding="utf-8", newline="") as file:
        parser = JsonParser(file, recording)
        try:
            content = parser.document()
        except ValueError as error:
            raise _not_json(str(error)) from None
    if not isinstance(content, dict):
        raise _not_json("it is no object")
    return content, _take_path(content, has_recording=parser.has_recording)


def _take_path(content: dict[str, object], *, has_recording: bool) -> str | None:
    """Take both fields of a recording out; returns the path where it was given instead of audio. Raises ApiError."""
    audio, path = content.pop(AUDIO_FIELD, None), content.pop(PATH_FIELD, None)
    if audio is not None and path is not None:
        raise second_recording(PATH_FIELD)
    if path is not None:
        if not isinstance(path, str) or isinstance(path, NumberText) or not path:
            raise bad_request("invalid_parameter", f"{PATH_FIELD} must be a text.", PATH_FIELD)
        return path
    wanted = f"{AUDIO_FIELD} with data (base64) and format"
    if audio is None:
        raise bad_request("file_missing", f"No recording was sent: the body needs {wanted}.", AUDIO_FIELD)
    if not isinstance(audio, dict):
        raise bad_request("invalid_parameter", f"It must be an object: {wanted}.", AUDIO_FIELD)
    if not has_recording:
        raise bad_request(
            "file_missing",
            f"{AUDIO_FIELD}.data must be a text that holds the recording in base64.",
            f"{AUDIO_FIELD}.data",
        )
    return None


@dataclass(slots=True)
class JsonParser:
    """One body's parser: `document` once. Raises ValueError for what is no JSON, ApiError for the rest."""

    file: TextIO
    recording: RecordingFile
    has_recording: bool = False
    # What was read and not yet parsed begins at `at` in `text`, which `read_count` characters were read for.
    text: str = ""
    at: int = 0
    read_count: int = 0
    kept_count: int = 0
    delimiter_count: int = 0
    open_keys: list[str] = field(default_factory=list)

    def document(self) -> object:
        content = self.value(self.token())
        if self.token():
            self.fail("something follows its end")
        return content

    def token(self) -> str:
        """The next bracket, comma, colon, quotation mark or bare word; nothing at the end."""
        while True:
            found = _TOKEN.match(self.text, self.at)
            assert found is not None  # it may match nothing
            token = found[1] or ""
            if token and (found.end() < len(self.text) or token in '{}[],:"' or not self.read_more()):
                break
            if not token:
                self.at = found.end()
                if self.at < len(self.text):
                    self.fail("a character means nothing")
                if not self.read_more():
                    return ""
            elif len(token) > PIECE_CHARACTERS:
                self.fail("a number is too long")
        self.at += found.end() - found.start()
        self.delimiter_count += 1
        if self.delimiter_count > MAX_DELIMITERS:
            raise bad_request("json_too_complex", f"The JSON body has more than {MAX_DELIMITERS} elements.")
        return token

    def value(self, token: str) -> object:
        if token == '"':
            return self.kept_string()
        if token in ("{", "["):
            if len(self.open_keys) == MAX_DEPTH:
                raise bad_request("json_too_complex", f"The JSON body is nested more than {MAX_DEPTH} deep.")
            return self.members() if token == "{" else self.elements()
        if not token or token in "}],:":
            self.fail("a value is missing")
        self.keep(token)
        try:
            value, end = _DECODER.raw_decode(token)
        except json.JSONDecodeError:
            end = 0
        if end != len(token):
            self.fail("a word is no value")
        return value

    def elements(self) -> list[object]:
        content: list[object] = []
        for token in self.until("]"):
            self.open_keys.append("")
            content.append(self.value(token))
            self.open_keys.pop()
        return content

    def members(self) -> dict[str, object]:
        content: dict[str, object] = {}
        for token in self.until("}"):
            if token != '"':
                self.fail("a key is missing")
            key = self.kept_string()
            if len(key) > MAX_NAME_BYTES and not self.open_keys:
                raise name_too_long(key)
            if key in content:
                twice = AUDIO_FIELD if self.open_keys == [AUDIO_FIELD] else key
                shown = twice.encode("ascii", "replace").decode()[:80]
                raise bad_request("duplicate_field", f"The field {shown} was sent more than once.", shown)
            if self.token() != ":":
                self.fail("a colon is missing")
            self.open_keys.append(key)
            token = self.token()
            is_recording = token == '"' and self.open_keys == [AUDIO_FIELD, "data"]
            content[key] = self.decode_recording() if is_recording else self.value(token)
            self.open_keys.pop()
        return content

    def until(self, end: str) -> Iterator[str]:
        """The first token of each element of an object or an array."""
        token = self.token()
        is_first = True
        while token != end or not is_first:
            yield token
            if (token := self.token()) == end:
                return
            if token != ",":
                self.fail(f"a comma or {end} is missing")
            token, is_first = self.token(), False

    def kept_string(self) -> str:
        pieces, size = [], 0
        for piece in self.string():
            self.keep(piece)
            pieces.append(piece)
            size += len(piece)
            if size > MAX_FIELD_BYTES:
                raise field_too_large(self.open_keys[0] if self.open_keys else piece)
        if len(pieces) == 1:
            return pieces[0]
        # Two escapes may be one character, the first at the end of a piece and the second in the next.
        return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def string(self) -> Iterator[str]:
        """A string whose quotation mark was taken, unescaped, in pieces."""
        try:
            piece, self.at = _DECODER.raw_decode(self.text, self.at - 1)
        except json.JSONDecodeError:
            pass  # it goes on beyond what was read, or is wrong, which is found out below
        else:
            yield piece
            return
        while True:
            whole = self.end_of_whole_escapes()
            try:
                # The mark that is added closes a string that goes on.
                piece, end = _DECODER.raw_decode(f'"{self.text[self.at : whole]}"')
            except json.JSONDecodeError as error:
                if self.open_keys == [AUDIO_FIELD, "data"]:
                    raise _not_base64() from None
                self.fail(f"a text is wrong ({error.msg})")
            yield piece
            if end < whole - self.at + 2:
                self.at += end - 1
                return
            self.at = whole
            if not self.read_more():
                self.fail("a text does not end")

    def end_of_whole_escapes(self) -> int:
        """The end of what was read, or the beginning of an escape that it may cut."""
        end = len(self.text)
        start = self.text.rfind("\\", max(self.at, end - 5))
        if start < 0 or end - start >= (6 if self.text.startswith("u", start + 1) else 2):
            return end
        before = self.text[self.at : start]
        is_escaped = (len(before) - len(before.rstrip("\\"))) % 2
        return end if is_escaped else start

    def decode_recording(self) -> str:
        """Decode a string into the recording's file; returns what stays in its place."""
        self.has_recording = True
        self.recording.create()
        base64 = _Base64()
        for piece in self.string():
            self.recording.append(base64.decode(piece))
        base64.finish()
        return ""

    def keep(self, text: str) -> None:
        self.kept_count += len(text)
        if self.kept_count > FORM_ALLOWANCE_BYTES:
            raise fields_too_large()

    def read_more(self) -> bool:
        piece = self.file.read(PIECE_CHARACTERS)
        self.text, self.at = self.text[self.at :] + piece, 0
        self.read_count += len(piece)
        return bool(piece)

    def fail(self, why: str) -> NoReturn:
        raise ValueError(f"{why}, at character {self.read_count - len(self.text) + self.at}")


class _Base64:
    """Decodes base64 in pieces; strict, except for line breaks."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_padded = False

    def decode(self, piece: str) -> bytes:
        try:
            text = self._rest + piece.encode("ascii").translate(None, b"\r\n\t")
            usable = len(text) & ~3
            self._rest, text = text[usable:], text[:usable]
            if self._is_padded and (text or self._rest):
                raise _not_base64()
            self._is_padded = text.endswith(b"=")
            return binascii.a2b_base64(text, strict_mode=True)
        except (UnicodeEncodeError, binascii.Error):
            raise _not_base64() from None

    def finish(self) -> None:
        if self._rest:
            raise _not_base64()


def _not_json(why: str) -> ApiError:
    return bad_request("json_invalid", f"The body is not valid JSON: {' '.join(why.split())[:200]}.")


def _not_base64() -> ApiError:
    return bad_request(
        "base64_invalid",
        f"{AUDIO_FIELD}.data must be plain base64 (no data: prefix, padded with =).",
        f"{AUDIO_FIELD}.data",
    )
