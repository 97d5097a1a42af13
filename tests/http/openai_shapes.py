"""Answers' shapes as OpenAI's SDKs declare them, checked strictly: required fields, exact types, nothing unknown.

The SDKs themselves check nothing; typed clients in other languages do, and fail on a number that is a text.
"""

from __future__ import annotations

import json
import math
from typing import Any

OUR_OWN_FIELDS = {"warnings"}
"""Optional fields of ours, which clients ignore."""

SEGMENT_FIELDS = {
    "id", "seek", "start", "end", "text", "tokens",
    "temperature", "avg_logprob", "compression_ratio", "no_speech_prob",
}  # fmt: skip


def check_fields(body: Any, required: set[str], optional: set[str] = frozenset()) -> None:
    assert isinstance(body, dict), body
    assert required <= set(body), f"missing: {required - set(body)}"
    assert set(body) <= required | optional, f"unknown: {set(body) - required - optional}"


def check_count(value: Any) -> None:
    assert type(value) is int, value
    assert value >= 0


def check_number(value: Any) -> None:
    """A float field: JSON may write it without a point, never as a text or a boolean."""
    assert type(value) in (int, float), value
    assert math.isfinite(value)


def check_token_usage(usage: Any) -> None:
    check_fields(usage, {"type", "input_tokens", "output_tokens", "total_tokens", "input_token_details"})
    assert usage["type"] == "tokens"
    check_fields(usage["input_token_details"], {"audio_tokens", "text_tokens"})
    details = usage["input_token_details"]
    for count in (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"], *details.values()):
        check_count(count)
    assert usage["input_tokens"] == sum(details.values())
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def check_logprobs(logprobs: Any) -> None:
    assert isinstance(logprobs, list)
    for one in logprobs:
        check_fields(one, {"token", "bytes", "logprob"})
        assert type(one["token"]) is str
        assert all(type(byte) is int and 0 <= byte < 256 for byte in one["bytes"])
        assert bytes(one["bytes"]).decode("utf-8", "replace") == one["token"]
        check_number(one["logprob"])
        assert one["logprob"] <= 0


def check_languages(languages: Any) -> None:
    assert isinstance(languages, list)
    for one in languages:
        check_fields(one, {"code"})
        assert 2 <= len(one["code"]) <= 3


def check_duration_usage(usage: Any) -> None:
    check_fields(usage, {"type", "seconds"})
    assert usage["type"] == "duration"
    check_number(usage["seconds"])


def check_transcription(body: Any, *, has_logprobs: bool = False) -> None:
    """`Transcription`, of response_format=json, for every name of the model but whisper-1."""
    logprobs = {"logprobs"} if has_logprobs else set()
    check_fields(body, {"text", "languages", "usage", *logprobs}, OUR_OWN_FIELDS)
    assert type(body["text"]) is str
    check_languages(body["languages"])
    check_token_usage(body["usage"])
    if has_logprobs:
        check_logprobs(body["logprobs"])


def check_verbose_transcription(body: Any, *, has_words: bool = False, has_segments: bool = True) -> None:
    """`TranscriptionVerbose`, of response_format=verbose_json, with segments whole."""
    fields = {"task", "language", "duration", "text", "usage"}
    fields |= ({"words"} if has_words else set()) | ({"segments"} if has_segments else set())
    check_fields(body, fields, OUR_OWN_FIELDS)
    for word in body.get("words", []):
        check_fields(word, {"word", "start", "end"})
        assert type(word["word"]) is str
        check_number(word["start"])
        check_number(word["end"])
    assert body["task"] == "transcribe"
    assert type(body["language"]) is str
    assert body["language"] == body["language"].lower()
    assert type(body["text"]) is str
    check_number(body["duration"])
    check_duration_usage(body["usage"])
    for index, segment in enumerate(body.get("segments", [])):
        check_fields(segment, SEGMENT_FIELDS)
        assert segment["id"] == index
        check_count(segment["id"])
        check_count(segment["seek"])
        assert type(segment["text"]) is str
        for token in segment["tokens"]:
            check_count(token)
        for name in (
            "start",
            "end",
            "temperature",
            "avg_logprob",
            "compression_ratio",
            "no_speech_prob",
        ):
            check_number(segment[name])


def check_model(body: Any) -> None:
    """`Model`, with what this server adds."""
    ours = {"demo", "description", "resident_model", "languages"}
    check_fields(body, {"id", "object", "created", "owned_by"}, ours)
    assert body["object"] == "model"
    check_count(body["created"])
    assert body["id"]
    assert body["owned_by"]


def check_error_object(error: Any) -> None:
    check_fields(error, {"message", "type", "param", "code"})
    assert error["message"]
    assert error["type"]
    assert error["code"]
    assert error["param"] is None or type(error["param"]) is str


def parse_events(body: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """The JSON events and the comments of a stream, read as the specification of server-sent events has it.

    Refuses names that are not the event's type, fields other than name and data, events cut off, bytes at which some
    clients would break a line too early, and an end of all events that went well without [DONE].
    """
    text = body.decode("ascii")
    assert "\r" not in text
    assert text == "" or text.endswith("\n\n")
    events: list[Any] = []
    comments: list[str] = []
    for block in text.split("\n\n")[:-1]:
        lines = block.split("\n")
        if block.startswith(":"):
            comments += lines
            continue
        assert lines[-1].startswith("data: "), block
        events.append(lines[-1].removeprefix("data: "))
        if events[-1] != "[DONE]":
            events[-1] = json.loads(events[-1])
            assert lines[:-1] == ([f"event: {events[-1]['type']}"] if "type" in events[-1] else []), block
    is_done = "[DONE]" in events
    if is_done:
        assert events.pop() == "[DONE]", events
        assert "[DONE]" not in events
    assert is_done == any(event.get("type") == "transcript.text.done" for event in events)
    return events, comments


def check_delta(event: Any, *, has_logprobs: bool = False) -> None:
    """`TranscriptionTextDeltaEvent`."""
    check_fields(event, {"type", "delta", *({"logprobs"} if has_logprobs else set())})
    assert event["type"] == "transcript.text.delta"
    assert type(event["delta"]) is str
    if has_logprobs:
        check_logprobs(event["logprobs"])


def check_done(event: Any, *, has_logprobs: bool = False) -> None:
    """`TranscriptionTextDoneEvent`."""
    logprobs = {"logprobs"} if has_logprobs else set()
    check_fields(event, {"type", "text", "languages", "usage", *logprobs}, OUR_OWN_FIELDS)
    assert event["type"] == "transcript.text.done"
    check_transcription(
        {name: value for name, value in event.items() if name != "type"}, has_logprobs=has_logprobs
    )


def check_stream(
    events: list[dict[str, Any]], *, has_logprobs: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """A stream that went well: deltas and one done, whose text they are; returns the deltas' texts and done."""
    *deltas, done = events
    for delta in deltas:
        check_delta(delta, has_logprobs=has_logprobs)
    check_done(done, has_logprobs=has_logprobs)
    texts = [delta["delta"] for delta in deltas]
    assert "".join(texts) == done["text"]
    if has_logprobs:
        assert [one for delta in deltas for one in delta["logprobs"]] == done["logprobs"]
    return texts, done
