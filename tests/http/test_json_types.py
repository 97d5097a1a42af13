"""Types of a JSON body's parameters: what a form could not get wrong is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scribewire.server.http.errors import ApiError
from scribewire.server.intake.json_types import TYPES, NumberText, check_types
from scribewire.server.routes.openapi.parameters import job_json, transcription_json


def parsed(content: dict[str, Any]) -> dict[str, Any]:
    """Parse a document as the body's parser does: numbers stay as they were written."""
    read: dict[str, Any] = json.loads(json.dumps(content), parse_int=NumberText, parse_float=NumberText)
    return read


@pytest.mark.parametrize(
    "content",
    [
        {},
        dict.fromkeys(TYPES),
        {"model": "m", "prompt": "", "temperature": 0.5, "seed": 7, "stream": True, "keywords": ["a", ""]},
        {"keywords[]": ["a"], "chunking_strategy": "auto"},
        {
            "chunking_strategy": {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": None,
                "more": {},
            }
        },
        {"provider": {"order": 5}, "user": 5},
    ],
    ids=str,
)
def test_right_types_pass_and_unknown_names_are_nobodys_business(content: dict[str, Any]):
    check_types(parsed(content))


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ({"model": 5}, "model"),
        ({"prompt": ["a"]}, "prompt"),
        ({"language": {"code": "en"}}, "language"),
        ({"response_format": False}, "response_format"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": {"value": 1}}, "temperature"),
        ({"seed": True}, "seed"),
        ({"max_tokens": [5]}, "max_tokens"),
        ({"repetition_penalty": "high"}, "repetition_penalty"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"keywords": "a,b"}, "keywords"),
        ({"keywords[]": 5}, "keywords"),
        ({"languages": ["en", 5]}, "languages"),
        ({"languages": ["en", None]}, "languages"),
        ({"include": {"logprobs": True}}, "include"),
        ({"chunking_strategy": 5}, "chunking_strategy"),
        ({"chunking_strategy": ["auto"]}, "chunking_strategy"),
        ({"chunking_strategy": {"type": 5}}, "chunking_strategy[type]"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": "high"}}, "chunking_strategy[threshold]"),
    ],
    ids=str,
)
def test_wrong_type_is_refused_by_name(content: dict[str, Any], param: str):
    with pytest.raises(ApiError) as refused:
        check_types(parsed(content))
    assert (refused.value.rule.status, refused.value.code) == (400, "invalid_parameter")
    assert refused.value.param == param


def test_every_parameter_that_is_described_has_its_type_checked():
    described = {*transcription_json(None)["properties"], *job_json(None)["properties"]}
    described -= {"input_audio", "file_path"}
    assert described == {*TYPES, "chunking_strategy"}
