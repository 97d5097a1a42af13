"""Jobs' values as JSON texts, for stores that keep them outside this process.

A field that a later version adds has a default, so that older texts can still be read; unknown fields are left out.
A text that holds something else raises an exception of any kind. Transcripts, which may take megabytes, are written
and read a segment at a time: a single call for all would keep every other thread of the process waiting.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.engine.protocol.transcript import Segment, Timings, TokenLogprob, TokenUsage, Transcript, Word
from scribewire.server.jobs.job import JobFailure, JobParameters, Submission, WorkerDeath

_Value = TypeVar("_Value")

_OTHERWISE_KEPT = {"options", "result_format", "callback_url"}
_OPTIONS = [one.name for one in dataclasses.fields(TranscribeOptions)]
_FIRST_OPTIONS = _OPTIONS[: _OPTIONS.index("chunking") + 1]
"""Written also where they have their default, as they always were; a later option is declared behind them."""


def fingerprint(submission: Submission) -> str:
    """Hex digest of recording, format, options and callback URL; the same for every owner."""
    content = [submission.audio.sha256, submission.result_format, parameters_to_json(submission)]
    if submission.callback_url is not None:
        content.append(submission.callback_url)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parameters_to_json(parameters: JobParameters) -> str:
    """A job's options, and those of its parameters that have no column, as one text: the same for the same ones.

    Later fields are left out where they have their default, so that fingerprints outlive an upgrade.
    """
    defaults = _further(JobParameters()) | dataclasses.asdict(TranscribeOptions())
    values = _further(parameters) | dataclasses.asdict(parameters.options)
    return _text(
        {name: one for name, one in values.items() if name in _FIRST_OPTIONS or one != defaults[name]}
    )


def parameters_from_json(text: str) -> dict[str, Any]:
    """The fields of JobParameters from their text, but those that have a column."""
    values = json.loads(text)
    known = _further(JobParameters())
    return {name: values[name] for name in known if name in values} | {"options": options_from_json(text)}


def options_from_json(text: str) -> TranscribeOptions:
    """Options from their text."""
    values = json.loads(text)
    for name in ("languages", "keywords"):
        values[name] = tuple(values.get(name, ()))
    if (speakers := values.get("speakers")) is not None:
        for name in ("known_names", "references"):
            speakers[name] = tuple(speakers.get(name, ()))
        values["speakers"] = _build(SpeakerOptions, speakers)
    values["chunking"] = _build(Chunking, values.get("chunking", {}))
    return _build(TranscribeOptions, values)


def failure_to_json(failure: JobFailure | None) -> str | None:
    """A failure as a text."""
    return None if failure is None else _text(dataclasses.asdict(failure))


def failure_from_json(text: str | None) -> JobFailure | None:
    """A failure from its text."""
    return None if text is None else _build(JobFailure, json.loads(text))


def deaths_to_json(deaths: tuple[WorkerDeath, ...]) -> str:
    """A record of deaths as a text."""
    return _text([dataclasses.asdict(death) for death in deaths])


def deaths_from_json(text: str) -> tuple[WorkerDeath, ...]:
    """A record of deaths from its text."""
    return tuple(_build(WorkerDeath, values) for values in json.loads(text))


def transcript_to_json(transcript: Transcript) -> str:
    """A transcript as a text, bytes of tokens in hex."""
    head = _text(dataclasses.asdict(dataclasses.replace(transcript, segments=())))
    segments = ",".join(_text(dataclasses.asdict(one)) for one in transcript.segments)
    return head.replace('"segments":[]', f'"segments":[{segments}]', 1)


def transcript_from_json(text: str) -> Transcript:
    """A transcript from its text, equal to the one it was made from."""
    values = _in_pieces(text)
    values["segments"] = tuple(_segment(one) for one in values["segments"])
    values["languages"] = tuple(values["languages"])
    values["warnings"] = tuple(values.get("warnings", ()))
    values["usage"] = _build(TokenUsage, values.get("usage", {}))
    values["timings"] = _build(Timings, values.get("timings", {}))
    return _build(Transcript, values)


def _further(parameters: JobParameters) -> dict[str, Any]:
    names = {one.name for one in dataclasses.fields(JobParameters)} - _OTHERWISE_KEPT
    return {name: getattr(parameters, name) for name in names}


def _segment(values: dict[str, Any]) -> Segment:
    values["tokens"] = tuple(values.get("tokens", ()))
    values["words"] = tuple(_build(Word, one) for one in values.get("words", ()))
    values["token_logprobs"] = tuple(
        _build(TokenLogprob, {**one, "data": bytes.fromhex(one["data"])})
        for one in values.get("token_logprobs", ())
    )
    return _build(Segment, values)


def _in_pieces(text: str) -> dict[str, Any]:
    """An object, read by one call for each value and for each item of a list, if it is written as by `_text`."""
    try:
        return _compact_object(text)
    except (ValueError, IndexError):
        values: dict[str, Any] = json.loads(text)
        return values


def _compact_object(text: str) -> dict[str, Any]:
    decode = json.JSONDecoder().raw_decode
    values: dict[str, Any] = {}
    at = 0
    while text[at] in "{,":
        name, at = decode(text, at + 1)
        if text[at : at + 2] != ":[" or text[at + 2] == "]":
            values[name], at = decode(text, at + 1)
            continue
        values[name] = items = []
        at += 1
        while text[at] in "[,":
            item, at = decode(text, at + 1)
            items.append(item)
        at += 1
    if text[at:] != "}":
        raise ValueError("not the text of an object")
    return values


def _text(values: Any) -> str:
    return json.dumps(values, default=bytes.hex, separators=(",", ":"), sort_keys=True)


def _build(kind: type[_Value], values: dict[str, Any]) -> _Value:
    types = _types(kind)  # type: ignore[arg-type]  # mypy holds types to be unhashable
    known = {name: value for name, value in values.items() if name in types}
    for name, value in known.items():
        if not _fits(value, types[name]):
            raise TypeError(f"{name} of {kind.__name__} has another type")
    return kind(**known)


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    """True for a value of the type; a number without a fraction is one with a fraction, too, as in JSON."""
    if hint.__class__ is type:
        return isinstance(value, (float, int) if hint is float else hint)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    return any(_fits(value, one) for one in get_args(hint))
