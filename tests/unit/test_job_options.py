"""Options of a job come back from disk as they were, also from a version that knew fewer of them; its warnings."""

from __future__ import annotations

import json

import pytest

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.engine.protocol.transcript import NO_WORD_TIMES, Transcript
from scribewire.server.intake.form import FormFields
from scribewire.server.intake.formats import FORMATS
from scribewire.server.intake.job_request import JobRequest
from scribewire.server.jobs.job import Job, JobParameters, StoredAudio, Submission
from scribewire.server.jobs.serialization import fingerprint, options_from_json, parameters_to_json
from scribewire.server.routes.job_bodies import warnings_of
from scribewire.server.webhooks.targets import AllowedTargets


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


@pytest.mark.parametrize(
    ("sent", "chosen", "is_shown"),
    [
        ({}, None, False),
        ({}, "verbose_json", False),
        ({}, "srt", True),
        ({"response_format": "srt"}, None, True),
        ({"response_format": "srt"}, "text", False),
        ({"timestamps": "true"}, "text", True),
    ],
)
def test_lack_of_words_is_told_where_words_are_wanted(
    sent: dict[str, str], chosen: str | None, *, is_shown: bool
):
    parameters = JobRequest.of(FormFields({name: [value] for name, value in sent.items()})).parameters(
        None, AllowedTargets(())
    )
    told = (f"{NO_WORD_TIMES}: there is no aligner", "the file was cut off")
    transcript = Transcript("x", "English", ("English",), 1.0, (), "fake", warnings=told)
    job = Job(
        job_id="job_1",
        owner="local",
        created_at=0.0,
        options=parameters.options,
        result_format=parameters.result_format,
        transcript=transcript,
    )
    shown = warnings_of(job, None if chosen is None else FORMATS[chosen])
    assert shown == (told if is_shown else told[1:])
