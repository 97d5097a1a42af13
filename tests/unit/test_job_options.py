"""Options of a job come back from disk as they were, also from a version that knew fewer of them."""

from __future__ import annotations

import json

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.server.jobs.job import JobParameters, StoredAudio, Submission
from scribewire.server.jobs.serialization import fingerprint, options_from_json, parameters_to_json


def test_options_come_back_as_they_were() -> None:
    options = TranscribeOptions(
        language="es", languages=("es", "en"), keywords=("Ana",), chunking=Chunking("voice", 0.7, 100, 900)
    )
    assert options_from_json(parameters_to_json(JobParameters(options=options))) == options


def test_options_from_before_there_was_a_choice_of_chunking_have_the_usual_one() -> None:
    stored = json.loads(parameters_to_json(JobParameters(options=TranscribeOptions(prompt="Ana"))))
    del stored["chunking"]
    assert options_from_json(json.dumps(stored)) == TranscribeOptions(prompt="Ana")


def test_a_later_option_makes_another_submission_and_its_default_the_same_as_before_there_was_one() -> None:
    def submitted(options: TranscribeOptions) -> str:
        return fingerprint(Submission("ann", StoredAudio("1", 1, "2"), options=options))

    assert submitted(TranscribeOptions(min_p=0.1)) != submitted(TranscribeOptions())
    assert "min_p" not in parameters_to_json(JobParameters())
    assert (
        options_from_json(parameters_to_json(JobParameters(options=TranscribeOptions(min_p=0.1)))).min_p
        == 0.1
    )
