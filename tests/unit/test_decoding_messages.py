"""The lines between the front and a decode child: all arrive as they were sent, and nothing else is taken."""

from __future__ import annotations

import json
import math

import pytest

from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.transcoding import (
    AudioBegun,
    FromTranscoder,
    MessageInvalid,
    StopTranscoding,
    ToTranscoder,
    Transcode,
    Transcoded,
    TranscodeFailed,
    TranscoderReady,
    TranscodeTaken,
    parse_from_transcoder,
    parse_to_transcoder,
    to_line,
)

MESSAGES: list[ToTranscoder | FromTranscoder] = [
    Transcode(1, "/a/\udcff recording", "/a/samples", 640_000, AudioLimits()),
    StopTranscoding(2),
    TranscoderReady(3),
    TranscodeTaken(4),
    AudioBegun(4, 0.25, None),
    AudioBegun(4, 0.25, 12.5),
    Transcoded(5, 1.5, 6, ("cut off\nthere", "")),
    TranscodeFailed(6, "audio_empty", "empty: send more", None, detail="x", is_last=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_every_message_arrives_as_it_was_sent(message: ToTranscoder | FromTranscoder) -> None:
    line = to_line(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    parse = parse_to_transcoder if isinstance(message, Transcode | StopTranscoding) else parse_from_transcoder
    assert parse(line) == message


GOOD = {
    "type": "Transcoded",
    "task_id": 1,
    "decode_seconds": 0.5,
    "sample_count": 5,
    "warnings": [],
    "is_last": False,
}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"type": "Transcode"},
        {"type": ["Transcoded"]},
        {key: value for key, value in GOOD.items() if key != "is_last"},
        GOOD | {"more": 1},
        GOOD | {"task_id": -1},
        GOOD | {"task_id": True},
        GOOD | {"sample_count": 1 << 60},
        GOOD | {"sample_count": 5.0},
        GOOD | {"decode_seconds": math.nan},
        GOOD | {"decode_seconds": "1"},
        GOOD | {"warnings": "abc"},
        GOOD | {"warnings": [1]},
        GOOD | {"warnings": ["a"] * 17},
        GOOD | {"warnings": ["a" * 501]},
        {"type": "AudioBegun", "task_id": 1, "decode_seconds": 0.1, "expected_seconds": math.inf},
        {"type": "TranscoderReady", "process_id": None},
    ],
    ids=lambda values: json.dumps(values)[:60],
)
def test_front_takes_nothing_else_from_a_child(values: object) -> None:
    assert parse_from_transcoder(json.dumps(GOOD).encode())
    with pytest.raises(MessageInvalid):
        parse_from_transcoder(json.dumps(values).encode())


@pytest.mark.parametrize(
    "line", [b"", b"\x80\x04.", b"not json", b"[" * 60_000, b'"' + b"a" * (1 << 16) + b'"']
)
def test_front_takes_no_line_that_is_no_message(line: bytes) -> None:
    with pytest.raises(MessageInvalid):
        parse_from_transcoder(line)
