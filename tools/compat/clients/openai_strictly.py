"""Every kind of answer and event, read by the types of the newest openai-python as strictly as pydantic can.

Imported for that version only; older ones lack the types.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pydantic
from checks import assert_words
from openai.types import AudioModel, Model
from openai.types import audio as types

EVERY_NAME = get_args(AudioModel)
OURS = {"warnings", "task", "demo", "description", "resident_model", "languages"}
"""Fields that the SDK's types do not have: `task` of verbose_json, which OpenAI sends too, and additions of ours."""

WORDS = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
DIARIZED = {"model": "gpt-4o-transcribe-diarize", "response_format": "diarized_json"}


def assert_strictly(kind: Any, answer: Any) -> None:
    """The answer is of the SDK's own type by its strictest reading; there are no fields besides those and ours."""
    body = json.dumps(answer.to_dict(mode="json"))
    parsed = pydantic.TypeAdapter(kind).validate_json(body, strict=True)
    assert unknown_fields(parsed) <= OURS, unknown_fields(parsed)


def unknown_fields(value: Any) -> set[str]:
    """Names of fields, at any depth, that the SDK's types do not have."""
    if isinstance(value, list):
        return {name for one in value for name in unknown_fields(one)}
    if not isinstance(value, pydantic.BaseModel):
        return set()
    inner = [getattr(value, name) for name in type(value).model_fields]
    return set(value.model_extra or ()) | unknown_fields(inner)


def strict_checks(suite: Any, recording: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The checks for one of the two clients; `recording` is in English."""
    mode = suite.mode

    def answers() -> None:
        for kind, options in (
            (types.Transcription, {}),
            (types.Transcription, {"model": "gpt-transcribe", "include": ["logprobs"]}),
            (types.TranscriptionVerbose, WORDS),
            (types.TranscriptionDiarized, DIARIZED),
        ):
            assert_strictly(kind, suite.create(**options))
        for model in mode.wait(suite.default.models.list()).data:
            assert_strictly(Model, model)

    def events() -> None:
        for options in ({}, {"include": ["logprobs"]}, DIARIZED):
            options = {**options, "stream": True, "prompt": f"Strictly, {mode.name}"}
            received = mode.events(suite.create(**options))
            for event in received:
                assert_strictly(types.TranscriptionStreamEvent, event)
            assert received[-1].languages[0].code == "en", received[-1]

    def segments() -> None:
        options = {**DIARIZED, "stream": True, "prompt": f"By segment, {mode.name}"}
        *pairs, done = mode.events(suite.create(**options))
        deltas, said = pairs[::2], pairs[1::2]
        assert deltas, "no delta"
        assert [one.segment_id for one in deltas] == [one.id for one in said]
        assert [one.delta.strip() for one in deltas] == [one.text for one in said]
        assert "".join(one.delta for one in deltas) == done.text
        assert_words(done.text, recording)

    return {
        "answers of the SDK's types, strictly": answers,
        "events of the SDK's types, strictly": events,
        "diarized stream: segment_id in deltas": segments,
    }
