"""Transcripts as answers: the bodies of the OpenAI formats and of jobs, with their headers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from starlette.responses import JSONResponse, Response

from scribewire.engine.protocol.attribution import UNKNOWN_SPEAKER
from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.transcript import Segment, TokenLogprob, Transcript
from scribewire.engine.subtitles import cues_from_transcript, render_srt, render_vtt
from scribewire.server.intake.form import TranscriptionForm
from scribewire.server.observability.logs import cut

MODEL_HEADER = "x-scribewire-model"
WARNING_HEADER = "x-scribewire-warning"

NO_LANGUAGE = "unknown"
"""verbose_json's language where there was no speech; the field is a required text."""

DEMO_WARNING = (
    "answered by the bundled demo model, a small model for trying things out, not for real transcription"
)

LEAST_LOGPROB = -9999.0
"""Logarithm of a probability of zero, since JSON has no infinity. Source: OpenAI's API reference, `logprob`."""

_FRAMES_PER_SECOND = 100
_MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


def answer_headers(info: ModelInfo, warnings: tuple[str, ...] = ()) -> dict[str, str]:
    """Headers with the model's name and the warnings; demo answers always carry one."""
    headers = {MODEL_HEADER: _header_text("demo" if info.is_demo else info.model_id)}
    notes = ((DEMO_WARNING,) if info.is_demo else ()) + warnings
    if notes:
        headers[WARNING_HEADER] = "; ".join(_header_text(note) for note in notes[:10])
    return headers


def answer(transcript: Transcript, info: ModelInfo, form: TranscriptionForm) -> Response:
    """A whole transcript in the requested format."""
    headers = answer_headers(info, transcript.warnings)
    match form.response_format:
        case "json":
            body = json_body(transcript, info)
            if form.wants_logprobs:
                body["logprobs"] = logprobs_body(transcript_logprobs(transcript))
            return JSONResponse(body, headers=headers)
        case "verbose_json":
            return JSONResponse(
                verbose_json_body(transcript, with_words=shows_words(form.options)), headers=headers
            )
        case "diarized_json":
            return JSONResponse(diarized_json_body(transcript), headers=headers)
        case "text":
            text = transcript.text + "\n"
        case "srt":
            text = render_srt(cues_from_transcript(transcript))
        case "vtt":
            text = render_vtt(cues_from_transcript(transcript))
    # Set as a header, because Starlette adds a charset to text/* only.
    return Response(text, headers={**headers, "content-type": _MEDIA_TYPES[form.response_format]})


def json_body(transcript: Transcript, info: ModelInfo) -> dict[str, Any]:
    """Body of response_format=json, without log-probabilities."""
    usage = transcript.usage
    body = {
        "text": transcript.text,
        "languages": [{"code": code} for code in _codes(transcript, info)],
        "usage": {
            "type": "tokens",
            "input_tokens": usage.input_tokens,
            "input_token_details": {"audio_tokens": usage.audio_tokens, "text_tokens": usage.text_tokens},
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
    }
    return _with_warnings(body, transcript)


def transcript_logprobs(transcript: Transcript) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of all segments, in order."""
    return tuple(one for segment in transcript.segments for one in segment.token_logprobs)


def logprobs_body(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """`logprobs` of json and of a stream's events."""
    return [
        {
            "token": one.text,
            "bytes": list(one.data),
            "logprob": round(one.logprob, 6) if math.isfinite(one.logprob) else LEAST_LOGPROB,
        }
        for one in logprobs
    ]


def verbose_json_body(transcript: Transcript, *, with_words: bool = False) -> dict[str, Any]:
    """Body of response_format=verbose_json."""
    body = {
        "task": "transcribe",
        "language": (transcript.language or NO_LANGUAGE).lower(),
        "duration": _number(transcript.duration_seconds),
        "text": transcript.text,
        "segments": [segment_body(segment) for segment in transcript.segments],
        **(words_body(transcript) if with_words else {}),
        "usage": {"type": "duration", "seconds": _number(transcript.duration_seconds)},
    }
    return _with_warnings(body, transcript)


def diarized_json_body(transcript: Transcript) -> dict[str, Any]:
    """Body of response_format=diarized_json."""
    body = {
        "task": "transcribe",
        "duration": _number(transcript.duration_seconds),
        "text": transcript.text,
        "segments": [diarized_segment_body(segment) for segment in transcript.segments],
        "usage": {"type": "duration", "seconds": _number(transcript.duration_seconds)},
    }
    return _with_warnings(body, transcript)


def diarized_segment_body(segment: Segment) -> dict[str, Any]:
    """A segment with its speaker, which is also an event of a stream."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{segment.index + 1:03}",
        "start": _number(segment.start_seconds),
        "end": _number(segment.end_seconds),
        "text": segment.text,
        "speaker": segment.speaker or UNKNOWN_SPEAKER,
    }


def segment_body(segment: Segment) -> dict[str, Any]:
    """One segment with all ten fields, which strict clients require."""
    return {
        "id": segment.index,
        "seek": int(segment.start_seconds * _FRAMES_PER_SECOND),
        "start": _number(segment.start_seconds),
        "end": _number(segment.end_seconds),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": _number(segment.temperature),
        "avg_logprob": _number(segment.avg_logprob),
        "compression_ratio": _number(segment.compression_ratio),
        "no_speech_prob": _number(segment.no_speech_prob),
    }


def shows_words(options: TranscribeOptions) -> bool:
    """True when the words themselves were requested, and not only subtitles."""
    return options.words and not options.words_optional


def words_body(transcript: Transcript) -> dict[str, Any]:
    """`words` of all segments, in order; words without times are left out, with a warning."""
    return {
        "words": [
            {"word": word.text, "start": _number(word.start_seconds), "end": _number(word.end_seconds)}
            for segment in transcript.segments
            for word in segment.words
        ]
    }


def job_result_body(transcript: Transcript, *, with_words: bool = False) -> dict[str, Any]:
    """A completed job's `result`."""
    body = {
        "text": transcript.text,
        "language": transcript.language.lower() if transcript.language else None,
        "duration": _number(transcript.duration_seconds),
        "model": transcript.model_id,
        "segments": [
            {
                "id": part.index,
                "start": _number(part.start_seconds),
                "end": _number(part.end_seconds),
                "text": part.text,
                **({"speaker": part.speaker} if part.speaker is not None else {}),
            }
            for part in transcript.segments
        ],
        **(words_body(transcript) if with_words else {}),
    }
    return _with_warnings(body, transcript)


def _with_warnings(body: dict[str, Any], transcript: Transcript) -> dict[str, Any]:
    return {**body, "warnings": list(transcript.warnings)} if transcript.warnings else body


def _codes(transcript: Transcript, info: ModelInfo) -> list[str]:
    code_of = dict(zip(info.languages, info.language_codes, strict=False))
    return [code_of[language] for language in transcript.languages if language in code_of]


def _number(value: float | None) -> float:
    # JSON has no NaN and no infinities.
    return round(value, 6) if value is not None and math.isfinite(value) else 0.0


def _header_text(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return cut(printable).encode("ascii", "backslashreplace").decode("ascii")
