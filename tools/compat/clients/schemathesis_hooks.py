"""Knowledge that Schemathesis lacks: recordings that can be decoded, and rules that JSON Schema cannot state.

Loaded by Schemathesis (SCHEMATHESIS_HOOKS) in its own environment; imports nothing of the project. Valid requests get
short real recordings, made from the one that SPEECH_WAV names; invalid ones keep whatever Schemathesis makes up.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import struct
import wave
from typing import Any

import jsonschema_rs
import schemathesis
from hypothesis import strategies

RATE_HZ = 16_000


def _wav(samples: bytes, *, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes(samples)
    return stream.getvalue()


def _recordings() -> list[bytes]:
    with wave.open(os.environ["SPEECH_WAV"]) as speech:
        assert (speech.getframerate(), speech.getsampwidth(), speech.getnchannels()) == (RATE_HZ, 2, 1)
        said = speech.readframes(speech.getnframes())
    noise = random.Random(0)
    hiss = b"".join(struct.pack("<h", round(noise.gauss(0, 300))) for _ in range(RATE_HZ // 10))
    word = said[RATE_HZ : 2 * RATE_HZ]
    stereo = b"".join(word[i : i + 2] * 2 for i in range(0, RATE_HZ // 2, 2))
    return [_wav(word), _wav(stereo, channels=2), _wav(hiss), _wav(bytes(RATE_HZ // 4))]


RECORDINGS = _recordings()
schemathesis.openapi.format("binary", strategies.sampled_from(RECORDINGS))
schemathesis.openapi.format(
    "byte", strategies.sampled_from([base64.b64encode(one).decode() for one in RECORDINGS])
)


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out what is not what Schemathesis takes it for, by rules that no JSON Schema can state."""
    if not isinstance(case.body, dict):
        return True
    if case.meta.generation.mode.is_positive:
        return _has_one_recording(case.body) and _has_a_name_for_each_reference(case.body)
    return not _fits_after_all(case)


def _fits_after_all(case: Any) -> bool:
    """True when an invalid body is valid after all: by another alternative, or by the time it is sent."""
    definition = case.operation.schema.raw_schema["paths"][case.operation.path][case.operation.method.lower()]
    schema = definition["requestBody"]["content"].get(case.media_type, {}).get("schema")
    if schema is None:
        return False
    components = case.operation.schema.raw_schema["components"]["schemas"]
    schema = components[schema["$ref"].rpartition("/")[2]]
    body = _as_json(case.body)
    if case.media_type == "multipart/form-data":
        is_job = "audio" in schema["properties"]
        if not is_job and getattr(case.body.get("file"), "data", None) not in RECORDINGS:
            return False  # a job takes any bytes and fails later; here they must be a recording
        body = {name: _as_sent(name, value) for name, value in body.items()}
    else:
        body = {name: _as_meant(value, schema["properties"].get(name, {})) for name, value in body.items()}
    # Bounds on lists count different entries.
    body = {name: _different(value) if isinstance(value, list) else value for name, value in body.items()}
    return bool(jsonschema_rs.is_valid(schema, body))


def _as_json(value: Any) -> Any:
    # Schemathesis wraps bytes in a text of its own kind, which its validator does not take.
    if isinstance(value, dict):
        return {str(name): _as_json(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_as_json(entry) for entry in value]
    return "a recording" if isinstance(value, str) and type(value) is not str else value


def _as_sent(name: str, value: Any) -> Any:
    """A form has no types: lists are fields sent several times, and texts whatever is written in them."""
    if name.endswith("[]"):
        entries = value if isinstance(value, list) else [value]
        pieces = [piece.strip() for one in entries for piece in _text(one).split(",") if piece.strip()]
        is_choice = name in ("include[]", "timestamp_granularities[]", "languages[]")
        return [one for one in pieces if not is_choice or one.lower() not in ("null", "none")]
    if isinstance(value, list) and len({_text(entry) for entry in value}) < 2:
        # Sent several times, which is no fault as long as it says the same; an empty list is not sent at all.
        value = value[0] if value else ""
    return _text(value) if name in ("prompt", "file", "audio") else value


def _as_meant(value: Any, schema: dict[str, Any]) -> Any:
    """In JSON numbers may be texts, and a list one comma-joined text."""
    kinds = schema.get("anyOf", [schema])[0].get("type", ())
    if not isinstance(value, str):
        return value
    if kinds == "array":
        return [piece.strip() for piece in value.split(",") if piece.strip()]
    if "number" in kinds or "integer" in kinds:
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _different(entries: list[Any]) -> list[Any]:
    return list({json.dumps(entry): entry for entry in entries}.values())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _has_one_recording(body: dict[str, Any]) -> bool:
    # The description says oneOf, which the coverage phase does not apply to forms.
    return not ("audio" in body and "file" in body)


def _has_a_name_for_each_reference(body: dict[str, Any]) -> bool:
    # No JSON Schema says that two lists are equally long.
    for mark in ("", "[]"):
        names, references = (
            body.get(f"known_speaker_{kind}{mark}") or [] for kind in ("names", "references")
        )
        if references and _entry_count(names) != len([one for one in references if one]):
            return False
    return True


def _entry_count(entries: list[Any]) -> int:
    # A comma separates two entries, and empty ones are left out.
    return sum(1 for entry in entries for piece in str(entry).split(",") if piece.strip())
