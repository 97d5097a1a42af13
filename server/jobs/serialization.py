"""Jobs' values as JSON texts, for stores that keep them outside this process.

A field that a later version adds has a default, so that older texts can still be read; unknown fields are left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, TypeVar

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.engine.protocol.transcript import Segment, Timings, TokenLogprob, TokenUsage, Transcript, Word
from scribewire.server.jobs.job import JobFailure, Submission, WorkerDeath

_Value = TypeVar("_Value")


def fingerprint(submission: Submission) -> str:
    """Hex digest of recording, format, options and callback URL; the same for every owner."""
    content = [submission.audio.sha256, submission.result_format, options_to_json(submission.options)]
    if submission.callback_url is not None:
        content.append(submission.callback_url)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def options_to_json(options: TranscribeOptions) -> str:
    """Options as a text, the same for the same options."""
    return _text(dataclasses.asdict(options))


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
    return json.dumps(dataclasses.asdict(transcript), default=bytes.hex, separators=(",", ":"))


def transcript_from_json(text: str) -> Transcript:
    """A transcript from its text, equal to the one it was made from."""
    values = json.loads(text)
    values["segments"] = tuple(_segment(one) for one in values["segments"])
    values["languages"] = tuple(values["languages"])
    values["warnings"] = tuple(values.get("warnings", ()))
    values["usage"] = _build(TokenUsage, values.get("usage", {}))
    values["timings"] = _build(Timings, values.get("timings", {}))
    return _build(Transcript, values)


def _segment(values: dict[str, Any]) -> Segment:
    values["tokens"] = tuple(values.get("tokens", ()))
    values["words"] = tuple(_build(Word, one) for one in values.get("words", ()))
    values["token_logprobs"] = tuple(
        _build(TokenLogprob, {**one, "data": bytes.fromhex(one["data"])})
        for one in values.get("token_logprobs", ())
    )
    return _build(Segment, values)


def _text(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"), sort_keys=True)


def _build(kind: type[_Value], values: dict[str, Any]) -> _Value:
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    return kind(**{name: value for name, value in values.items() if name in known})
