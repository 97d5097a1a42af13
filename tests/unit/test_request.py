"""One request: whatever way a client writes a value, it is the same value, and what is wrong is refused by its name."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.server.http.errors import ApiError
from scribewire.server.intake.form import FormFields, NumberText, fields_from_json
from scribewire.server.intake.formats import FORMATS
from scribewire.server.intake.job_request import JobRequest
from scribewire.server.intake.request import REFUSALS, TranscriptionRequest
from scribewire.server.routes.request_schema import request_schemas
from scribewire.server.webhooks.targets import AllowedTargets

VOICE = "data:audio/wav;base64,UklGRg=="
NO_TARGETS = AllowedTargets(())


def of_form(**sent: str | list[str]) -> TranscriptionRequest:
    values = {name: [text] if isinstance(text, str) else text for name, text in sent.items()}
    return TranscriptionRequest.of(FormFields(values))


def of_json(**body: Any) -> TranscriptionRequest:
    """A body as the parser leaves it: numbers as they were written."""
    read = json.loads(json.dumps(body), parse_int=NumberText, parse_float=NumberText)
    return TranscriptionRequest.of(fields_from_json(read))


# ---- lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        {"keywords": ["one", "two"]},
        {"keywords[]": ["one", "two"]},
        {"keywords[0]": "one", "keywords[1]": "two"},
        {"keywords[1]": "two", "keywords[0]": "one"},
        {"keywords[2]": "one", "keywords[10]": "two"},
        {"keywords": "one, two"},
        {"keywords[]": "one,two,,"},
        {"keywords": "one", "keywords[]": "two", "keywords[7]": "one"},
    ],
    ids=str,
)
def test_list_is_the_same_however_a_form_sends_it(sent: dict[str, Any]):
    assert of_form(**sent).keywords == ("one", "two")


@pytest.mark.parametrize(
    "sent",
    [
        {"keywords": ["one", "two"]},
        {"keywords[]": ["one", "two"]},
        {"keywords": "one,two"},
        {"keywords[0]": "one", "keywords[1]": "two"},
    ],
    ids=str,
)
def test_list_is_the_same_however_json_sends_it(sent: dict[str, Any]):
    assert of_json(**sent).keywords == ("one", "two")


@pytest.mark.parametrize(
    ("name", "sent", "items"),
    [
        ("timestamp_granularities", "word,segment", ("word", "segment")),
        ("include", "logprobs", ("logprobs",)),
        ("languages", "en,es", ("en", "es")),
        ("known_speaker_names", "Ann,Bob", ("Ann", "Bob")),
        ("known_speaker_references", f"{VOICE},{VOICE}", (VOICE, VOICE)),
    ],
)
@pytest.mark.parametrize("suffix", ["", "[]", "[0]"])
def test_every_list_is_taken_in_every_way(name: str, sent: str, items: tuple[str, ...], suffix: str):
    more = {"known_speaker_references": {"known_speaker_names": "Ann,Bob"}}.get(name, {})
    response_format = "verbose_json" if name == "timestamp_granularities" else "json"
    request = of_form(**{name + suffix: sent}, response_format=response_format, **more)
    assert getattr(request, name) == items


def test_items_of_a_json_list_are_taken_whole():
    names = ["Smith, John", "Ann"]
    assert of_json(keywords=names).keywords == ("Smith, John", "Ann")
    assert of_json(known_speaker_names=names).known_speaker_names == ("Smith, John", "Ann")


def test_data_urls_are_never_cut_at_a_comma():
    names = "A,B"
    for sent in (
        {"known_speaker_references[]": [VOICE, VOICE]},
        {"known_speaker_references": f"{VOICE}, {VOICE}"},
        {"known_speaker_references[0]": VOICE, "known_speaker_references[1]": VOICE},
    ):
        assert of_form(known_speaker_names=names, **sent).known_speaker_references == (VOICE, VOICE)
    assert of_json(known_speaker_names=["A"], known_speaker_references=[VOICE]).known_speaker_references


# ---- what is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", " ", "null", "None", "NULL"])
def test_whole_field_that_is_empty_or_null_was_left_out(nothing: str):
    fields = {name: nothing for name in TranscriptionRequest.model_fields if name != "chunking_strategy"}
    plain = of_form().options()
    assert of_form(**fields).options() == plain
    assert of_json(**fields).options() == plain
    assert of_json(**dict.fromkeys(fields)).options() == plain


@pytest.mark.parametrize("word", ["None", "null", "NULL"])
def test_item_of_a_list_of_free_text_stands_as_it_is(word: str):
    assert of_form(**{"keywords[]": word}).keywords == (word,)
    assert of_form(keywords=f"{word},Ann").keywords == (word, "Ann")
    assert of_form(keywords=["Ann", word]).keywords == ("Ann", word)
    assert of_json(keywords=[word]).keywords == (word,)
    assert of_json(known_speaker_names=[word]).known_speaker_names == (word,)


def test_item_of_a_list_of_choices_that_is_null_was_left_out():
    assert of_form(**{"include[]": "null", "languages[]": ["None", "en"]}).languages == ("en",)
    assert of_form(**{"include[]": "None"}).include == ()


@pytest.mark.parametrize(
    ("sent", "chunking"),
    [
        ({}, Chunking()),
        ({"chunking_strategy": ""}, Chunking()),
        ({"chunking_strategy": None}, Chunking("quietest")),
        ({"chunking_strategy": "None"}, Chunking("quietest")),
        ({"chunking_strategy": "auto"}, Chunking("voice")),
        ({"chunking_strategy": {}}, Chunking()),
        ({"chunking_strategy": {"type": "auto"}}, Chunking("voice")),
        ({"chunking_strategy": {"type": "server_vad", "threshold": "0.7"}}, Chunking("voice", 0.7)),
        ({"chunking_strategy": {"type": "server_vad", "threshold": None, "more": {}}}, Chunking("voice")),
    ],
    ids=str,
)
def test_null_means_something_for_chunking_alone(sent: dict[str, Any], chunking: Chunking):
    assert of_json(**sent).options().chunking == chunking


# ---- types -----------------------------------------------------------------------------------------------------------


def test_numbers_and_booleans_in_texts_are_those_of_json():
    written = of_json(temperature="0.5", seed="7", max_tokens="9.0", repetition_penalty="1.5", stream="True")
    plain = of_json(temperature=0.5, seed=7, max_tokens=9, repetition_penalty=1.5, stream=True)
    assert written == plain
    assert of_json(seed=2**63 - 1).seed == 2**63 - 1
    assert of_json(stream=1).stream


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 5}, "model"),
        ({"prompt": ["a"]}, "prompt"),
        ({"language": {"code": "en"}}, "language"),
        ({"response_format": False}, "response_format"),
        ({"temperature": {"value": 1}}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"seed": True}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"max_tokens": [5]}, "max_tokens"),
        ({"repetition_penalty": "high"}, "repetition_penalty"),
        ({"stream": 2}, "stream"),
        ({"stream": "yes"}, "stream"),
        ({"keywords[]": 5}, "keywords"),
        ({"keywords": {"a": "b"}}, "keywords"),
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
def test_wrong_type_is_refused_by_name(body: dict[str, Any], param: str):
    with pytest.raises(ApiError) as refused:
        of_json(**body)
    assert (refused.value.rule.status, refused.value.code) == (400, "invalid_parameter")
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"temperature": "NaN"}, "temperature must be a number from 0 to 1, not 'NaN'."),
        ({"seed": "-1"}, f"seed must be a whole number from 0 to {2**63 - 1}, not '-1'."),
        ({"stream": "maybe"}, "stream must be true or false, not 'maybe'."),
        (
            {"response_format": "xml"},
            "response_format 'xml' is unknown; use json, text, srt, verbose_json, vtt, tsv or diarized_json.",
        ),
        (
            {"timestamp_granularities": "minute"},
            "timestamp_granularities 'minute' is unknown; use segment or word.",
        ),
        ({"keywords": "x" * 201}, f"keywords holds a text of more than 200 characters: {'x' * 40!r}."),
        ({"languages": ",".join(map(str, range(65)))}, "languages has more than 64 entries: 65."),
        ({"language": "x" * 65}, f"language {'x' * 40!r} is too long to be one."),
    ],
    ids=str,
)
def test_refusals_say_what_would_be_right(sent: dict[str, str], message: str):
    with pytest.raises(ApiError) as refused:
        of_form(**sent)
    assert refused.value.message == message


def test_refusals_are_400_whatever_pydantic_calls_them():
    for code, template in REFUSALS.values():
        assert code in ("invalid_parameter", "language_unknown")
        assert template.endswith((".", "}"))


def test_unknown_fields_are_ignored():
    assert of_form(user="x", **{"extra[a][b]": "y", "chunking_strategy[more]": "z"}) == of_form()
    assert of_json(user=5, provider={"order": [1]}) == of_json()


# ---- what follows from it ------------------------------------------------------------------------------------


def test_every_option_of_the_engine_is_a_field_or_follows_from_some():
    follow = {"logprobs", "token_logprobs", "words", "words_optional", "speakers", "chunking"}
    names = {one.name for one in dataclasses.fields(TranscribeOptions)}
    assert names - follow <= set(TranscriptionRequest.model_fields)


def test_every_parameter_of_a_job_that_is_stored_comes_from_the_request():
    request = JobRequest.of(FormFields({"response_format": ["srt"], "language": ["en"]}))
    parameters = request.parameters("other-model", NO_TARGETS)
    assert parameters.result_format == "srt"
    assert parameters.callback_url is None
    assert (parameters.options.language, parameters.options.model) == ("en", "other-model")
    assert parameters.options.logprobs


def test_both_kinds_of_body_are_described_with_the_same_parameters():
    schemas = request_schemas(None, has_callbacks=False)
    for name, fields in (("Transcription", TranscriptionRequest), ("Job", JobRequest)):
        form = {one.partition("[")[0] for one in schemas[f"{name}Form"]["properties"]} - {"file", "audio"}
        body = set(schemas[f"{name}Request"]["properties"]) - {"input_audio", "file_path"}
        assert form == body == set(fields.model_fields)


def test_no_other_file_of_the_server_knows_a_subtitle_format():
    server = Path(__file__).parents[2] / "server"
    quoted = [
        str(one) for one in server.rglob("*.py") if re.search("[\"'](srt|vtt|tsv)[\"']", one.read_text())
    ]
    assert quoted == [str(server / "intake" / "formats.py")]


def test_formats_say_what_they_need():
    for name, response_format in FORMATS.items():
        options = of_form(response_format=name).options()
        assert options.words == ("words" in response_format.wants)
        assert (options.speakers is not None) == ("speakers" in response_format.wants)
        assert options.logprobs == ("logprobs" in response_format.wants)
