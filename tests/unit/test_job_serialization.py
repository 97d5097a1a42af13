"""Jobs' values as texts: what is written is read back, and what an older version wrote can still be read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript, Word
from scribewire.server.jobs import serialization
from scribewire.server.jobs.job import JobParameters
from scribewire.server.jobs.serialization import (
    options_from_json,
    parameters_to_json,
    transcript_from_json,
    transcript_to_json,
)


def test_options_come_back_with_their_speakers():
    speakers = SpeakerOptions(known_names=("Ann", "Bob"), references=("data:audio/wav;base64,AAAA",))
    for options in (
        TranscribeOptions(),
        TranscribeOptions(languages=("en", "es"), keywords=("Zoë",), words=True, words_optional=True),
        TranscribeOptions(speakers=speakers),
        TranscribeOptions(speakers=SpeakerOptions(min_speakers=2, max_speakers=3)),
    ):
        assert options_from_json(parameters_to_json(JobParameters(options=options))) == options


def test_options_of_an_older_version_and_of_a_newer_one_can_be_read():
    assert options_from_json('{"language": "es"}') == TranscribeOptions(language="es")
    two = TranscribeOptions(speakers=SpeakerOptions(num_speakers=2))
    newer = json.loads(parameters_to_json(JobParameters(options=two)))
    newer["tomorrow"] = newer["speakers"]["tomorrow"] = 1
    assert options_from_json(json.dumps(newer)) == two


def test_transcripts_come_back_with_words_and_speakers():
    segment = Segment(
        0, 0.0, 1.5, "Hello.", "English", tokens=(1, 2), words=(Word("Hello.", 0.25, 1.0, ""),), speaker="Ann",
        token_logprobs=(TokenLogprob("\ufffd", b"\xff", -0.5),),
    )  # fmt: skip
    transcript = Transcript("Hello.", "English", ("English",), 1.5, (segment,), "demo", warnings=("cut",))
    assert transcript_from_json(transcript_to_json(transcript)) == transcript


def test_a_transcript_from_before_speakers_has_none():
    segment = {"index": 0, "start_seconds": 0.0, "end_seconds": 1.0, "text": "Hi.", "language": "English"}
    old = {
        "text": "Hi.", "language": "English", "languages": ["English"], "duration_seconds": 1.0,
        "segments": [segment], "model_id": "demo",
    }  # fmt: skip
    assert transcript_from_json(json.dumps(old)).segments[0].speaker is None


@pytest.mark.parametrize("words", [0, 1, 1000])
def test_transcript_is_read_by_short_calls_and_the_same_however_it_was_written(
    words: int, monkeypatch: pytest.MonkeyPatch
):
    segment = Segment(
        0,
        0.0,
        9.0,
        'a "\u2028',
        None,
        tokens=(1,) * words,
        words=tuple(Word(f"w{n}", n / 9, n / 8) for n in range(words)),
    )
    transcript = Transcript("x", None, (), 9.0, (segment, segment), "demo")
    text = transcript_to_json(transcript)
    decode, lengths = serialization._decode, []

    def measured(text: str, at: int) -> tuple[Any, int]:
        value, end = decode(text, at)
        lengths.append(end - at)
        return value, end

    monkeypatch.setattr(serialization, "_decode", measured)
    assert transcript_from_json(text) == transcript
    assert max(lengths) < 200
    assert transcript_from_json(json.dumps(json.loads(text), indent=1)) == transcript


def test_a_transcript_is_written_by_short_calls_and_as_by_one(monkeypatch: pytest.MonkeyPatch):
    words = tuple(Word(f'"words":[] {n}', n / 9, n / 8) for n in range(2000))
    logprobs = tuple(TokenLogprob("a", b"\xff", -0.5) for _ in range(2000))
    segment = Segment(0, 0.0, 9.0, '"segments":[]', None, words=words, token_logprobs=logprobs)
    transcript = Transcript('"segments":[]', "English", (), 9.0, (segment, segment), "demo")
    as_by_one = json.dumps(
        dataclasses.asdict(transcript), default=bytes.hex, separators=(",", ":"), sort_keys=True
    )
    write, lengths = json.dumps, []

    def measured(*arguments: Any, **keywords: Any) -> str:
        text = write(*arguments, **keywords)
        lengths.append(len(text))
        return text

    monkeypatch.setattr(serialization.json, "dumps", measured)
    assert transcript_to_json(transcript) == as_by_one
    assert max(lengths) < 1000


@pytest.mark.parametrize("text", ["", "{", "[1", '{"a"1}', '{"a":1]', "[1,]", "{}x", '{"a":1}}'])
def test_what_is_no_json_is_refused_in_pieces_too(text: str):
    with pytest.raises(ValueError, match=r"."):
        serialization._in_pieces(text)
