"""Jobs' values as texts: what is written is read back, and what an older version wrote can still be read."""

from __future__ import annotations

import json

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript, Word
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
