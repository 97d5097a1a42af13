"""Jobs' values as JSON texts, for stores that keep them outside this process.

A field that a later version adds has a default, so that older texts can still be read; unknown fields are left out.
A text that holds something else raises an exception of any kind. Transcripts, which may take megabytes, are written
a segment and read a word at a time: a single call for all would keep every other thread of the process waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.engine.protocol.transcript import Segment, Timings, TokenLogprob, TokenUsage, Transcript, Word
from scribewire.server.http.answers import long_value
from scribewire.server.jobs.job import JobFailure, JobParameters, Submission, WorkerDeath

_READ_DEPTH = 4
"""A transcript, its segments, a segment, its words."""

_LONG_ITEMS = 1000
_LONG_CHARACTERS = 100_000
"""From which on a transcript is made of so many objects that a collection of them would be felt."""

_decode = json.JSONDecoder().raw_decode

_Value = TypeVar("_Value")

_OTHERWISE_KEPT = {"options", "result_format", "callback_url"}
_OPTIONS = [one.name for one in dataclasses.fields(TranscribeOptions)]
_FIRST_OPTIONS = _OPTIONS[: _OPTIONS.index("chunking") + 1]
"""Written also where they have their default, as they always were; a later option is declared behind them."""


def fingerprint(submission: Submission) -> str:
    """Hex digest of recording, format, options and callback URL; the same for every owner and every file name."""
    parameters = parameters_to_json(dataclasses.replace(submission, filename=None))
    content = [submission.audio.sha256, submission.result_format, parameters]
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
    kept = {name: values[name] for name in _further(JobParameters()) if name in values}
    return _further(_build(JobParameters, kept)) | {"options": options_from_json(text)}


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
    is_long = sum(len(one.words) + len(one.token_logprobs) for one in transcript.segments) > _LONG_ITEMS
    with long_value() if is_long else contextlib.nullcontext():
        head = _text(dataclasses.asdict(dataclasses.replace(transcript, segments=())))
        return _filled(head, "segments", map(_segment_text, transcript.segments))


def _segment_text(segment: Segment) -> str:
    text = _text(dataclasses.asdict(dataclasses.replace(segment, words=(), token_logprobs=())))
    for name, items in (("words", segment.words), ("token_logprobs", segment.token_logprobs)):
        text = _filled(text, name, (_text(dataclasses.asdict(one)) for one in items))
    return text


def _filled(text: str, name: str, items: Iterable[str]) -> str:
    """The text with items in its one empty list of this name; a quotation mark inside a text has a backslash."""
    return text.replace(f'"{name}":[]', f'"{name}":[{",".join(items)}]', 1)


def transcript_from_json(text: str) -> Transcript:
    """A transcript from its text, equal to the one it was made from."""
    with long_value() if len(text) > _LONG_CHARACTERS else contextlib.nullcontext():
        return _transcript(_in_pieces(text))


def _transcript(values: dict[str, Any]) -> Transcript:
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


def _in_pieces(text: str) -> Any:
    """A JSON text's value; down to the words of segments by a call for each, if it is written as by `_text`."""
    with contextlib.suppress(ValueError, IndexError):
        value, end = _read(text, 0, _READ_DEPTH)
        if end == len(text):
            return value
    return json.loads(text)


def _read(text: str, at: int, depth: int) -> tuple[Any, int]:
    first = text[at]
    if depth == 0 or first not in "{[" or text[at + 1] in "}]":
        return _decode(text, at)
    values: Any = {} if first == "{" else []
    while text[at] in "{[,":
        if first == "{":
            name, at = _decode(text, at + 1)
            if text[at] != ":":
                raise ValueError("no colon where one is expected")
            values[name], at = _read(text, at + 1, depth - 1)
        else:
            one, at = _read(text, at + 1, depth - 1)
            values.append(one)
    if text[at] != ("}" if first == "{" else "]"):
        raise ValueError("no end where one is expected")
    return values, at + 1


def _text(values: Any) -> str:
    return json.dumps(values, default=bytes.hex, separators=(",", ":"), sort_keys=True)


def _build(kind: type[_Value], values: dict[str, Any]) -> _Value:
    checks = _checks(kind)  # type: ignore[arg-type]  # mypy holds types to be unhashable
    known = {name: value for name, value in values.items() if name in checks}
    for name, value in known.items():
        if not checks[name](value):
            raise TypeError(f"{name} of {kind.__name__} has another type")
    return kind(**known)


@functools.cache
def _checks(kind: Any) -> dict[str, Callable[[Any], bool]]:
    hints = get_type_hints(kind)
    return {field.name: _check(hints[field.name]) for field in dataclasses.fields(kind)}


def _check(hint: Any) -> Callable[[Any], bool]:
    """A test for values of a type; a number without a fraction is one with a fraction, too, as in JSON."""
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return arguments.__contains__
    if get_origin(hint) is tuple:
        is_item = _check(arguments[0])
        return lambda value: isinstance(value, tuple) and all(map(is_item, value))
    types = arguments or (hint,)
    types += (int,) if float in types else ()
    return lambda value: isinstance(value, types)
